// Asks the validator that the reference PDS is built with for its verdict on documents and records.
// stdin:  {"documents": [lexicon], "cases": [{"nsid", "record", "rkey"?}]}
// stdout: {"documents": [[valid, reason]], "cases": [[valid, reason]]}
import fs from 'node:fs'
import { LexiconIterableIndexer, LexiconSchemaBuilder, lexiconDocumentSchema } from '@atproto/lex-document'
import { jsonToLex } from '@atproto/lex-json'

const { documents, cases } = JSON.parse(fs.readFileSync(0, 'utf8'))

function verdict(schema, value) {
  const result = schema.safeValidate(value)
  return [result.success, result.success ? '' : result.reason.message]
}

const schemas = new Map()
for (const { id } of documents) {
  const indexer = new LexiconIterableIndexer(documents)
  schemas.set(id, await LexiconSchemaBuilder.build(indexer, `${id}#main`))
}

function judge({ nsid, record, rkey }) {
  const schema = schemas.get(nsid)
  try {
    if (rkey !== undefined) {
      const key = verdict(schema.keySchema, rkey)
      if (!key[0]) return key
    }
    return verdict(schema, jsonToLex(record, { strict: true }))
  } catch (error) {
    return [false, `${error.name}: ${error.message}`]
  }
}

const answer = {
  documents: documents.map((document) => verdict(lexiconDocumentSchema, document)),
  cases: cases.map(judge),
}
process.stdout.write(JSON.stringify(answer))
