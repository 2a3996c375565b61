// A PLC directory and the reference PDS in one process, on 127.0.0.1 only. Settings are in stack.py, which starts
// this; nothing else belongs here. Prints one line when both answer; SIGTERM or SIGINT ends both.
//
//   node launch.mjs DATA_FOLDER PLC_PORT      with the PDS_* variables in the environment
//
// The PLC server keeps its operations in memory, so every accepted one is also appended to DATA_FOLDER/plc.jsonl and
// read back at the next start: without it a restarted PDS could not resolve its own DIDs.
import { appendFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const LOOPBACK = '127.0.0.1'
const [dataFolder, plcPort] = process.argv.slice(2)
if (!dataFolder || !plcPort) {
  console.error('usage: node launch.mjs DATA_FOLDER PLC_PORT')
  process.exit(2)
}
mkdirSync(join(dataFolder, 'blobs'), { recursive: true })

// After the environment is complete: both packages read it while they load.
const { CID } = await import('multiformats/cid')
const { default: plcModule } = await import('@did-plc/server')
const { PDS, envToCfg, envToSecrets, readEnv } = await import('@atproto/pds')

// Both servers call app.listen(port), which binds every interface.
function bindToLoopback(app) {
  const original = app.listen
  app.listen = (port, ...rest) => original.call(app, port, LOOPBACK, ...rest)
}

function keptOnDisk(database, file) {
  if (existsSync(file)) {
    const text = readFileSync(file, 'utf8')
    if (text && !text.endsWith('\n')) appendFileSync(file, '\n')
    for (const line of text.split('\n')) {
      if (!line) continue
      let entry
      try {
        entry = JSON.parse(line)
      } catch {
        continue // the last line, cut by a kill: the operation was not acknowledged
      }
      database.contents[entry.did] = entry.operations.map((saved) => ({
        ...saved,
        did: entry.did,
        cid: CID.parse(saved.cid),
        createdAt: new Date(saved.createdAt),
      }))
    }
  }
  const accept = database.validateAndAddOp.bind(database)
  database.validateAndAddOp = async (did, operation, ...rest) => {
    await accept(did, operation, ...rest)
    const operations = database.contents[did].map((kept) => ({
      operation: kept.operation,
      nullified: kept.nullified,
      cid: String(kept.cid),
      createdAt: kept.createdAt,
    }))
    appendFileSync(file, `${JSON.stringify({ did, operations })}\n`) // whole history of the DID: its last line counts
  }
  return database
}

const directory = plcModule.PlcServer.create({
  db: keptOnDisk(new plcModule.MockDatabase(), join(dataFolder, 'plc.jsonl')),
  port: Number(plcPort),
})
bindToLoopback(directory.app)
await directory.start()

const environment = readEnv()
const server = await PDS.create(envToCfg(environment), envToSecrets(environment))
bindToLoopback(server.app)
await server.start()

let ending
const end = () => {
  ending ??= Promise.allSettled([server.destroy(), directory.destroy()]).then(() => process.exit(0))
}
process.on('SIGTERM', end)
process.on('SIGINT', end)
console.log(`PDS on port ${process.env.PDS_PORT}, PLC directory on port ${plcPort}`)
