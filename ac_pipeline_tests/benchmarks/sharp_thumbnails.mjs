// Thumbnails of every picture in a folder by `sharp`, in one pass by the original's rule; prints pictures, CPU seconds
// and bytes as JSON.
//
//   node sharp_thumbnails.mjs FOLDER_WITH_SHARP FOLDER_WITH_PICTURES ROUNDS
import { readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'

const [installed, folder, rounds] = process.argv.slice(2)
const sharp = createRequire(resolve(installed, 'package.json'))('sharp')
sharp.concurrency(1)
sharp.cache(false)

const SIDE = 512
const pictures = readdirSync(folder).sort().map((name) => readFileSync(join(folder, name)))

async function thumbnail(data) {
  const { width, height } = await sharp(data).metadata()
  const kernel = SIDE > width || SIDE > height ? 'nearest' : 'lanczos3'
  const background = { r: 0, g: 0, b: 0, alpha: 0 }
  return sharp(data)
    .flatten({ background: { r: 32, g: 32, b: 32 } })
    .ensureAlpha()
    .resize(SIDE, SIDE, { fit: 'contain', kernel, background })
    .png()
    .toBuffer()
}

await thumbnail(pictures[0])
let bytes = 0
const before = process.cpuUsage()
for (let round = 0; round < Number(rounds); round++) for (const data of pictures) bytes += (await thumbnail(data)).length
const { user, system } = process.cpuUsage(before)
console.log(JSON.stringify({ pictures: pictures.length * Number(rounds), seconds: (user + system) / 1e6, bytes }))
