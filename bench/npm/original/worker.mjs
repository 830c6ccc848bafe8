// The original's worker and its callback server in one process, as knative-job-service starts them (that package does
// not install: it names a dependency that the registry does not have). Start with
//   node --require ./shim.cjs worker.mjs
// and the original's environment: PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE, INTERNAL_GATEWAY_URL (functions are
// at <that>/<task>), INTERNAL_JOBS_CALLBACK_PORT, INTERNAL_JOBS_CALLBACK_URL; LOG_LEVEL=error keeps it from writing
// several lines per job. WORKERS (1): workers in this process, each with its own loop; it has no other concurrency.
//
// Stands alone, or as the child of index.mjs: then it says 'ready', starts its workers at 'go', and answers 'usage'
// with its CPU seconds and resident memory. TIMED=1: it also says 'done' when the callback server has answered, that is
// after the job's deletion is committed.

import { createServer } from 'node:http'
import { createRequire } from 'node:module'

import { cpuSeconds, rssKb } from '../kit.mjs'

const require = createRequire(import.meta.url)
const { Worker } = require('@constructive-io/knative-job-worker')
const server = require('@constructive-io/knative-job-server').default

const workers = Array.from(
  { length: Number(process.env.WORKERS ?? 1) },
  (_, index) => new Worker({ tasks: [], workerId: `worker-${index}` }),
)

function start() {
  for (const worker of workers) void worker.listen()
}

const usage = () => ({ cpu: cpuSeconds(), rss_kb: rssKb() })

const callbacks = server()
const listener = createServer((request, response) => {
  if (process.env.TIMED) response.on('finish', () => process.send({ message: 'done' }))
  callbacks(request, response)
})

listener.listen(Number(process.env.INTERNAL_JOBS_CALLBACK_PORT), '127.0.0.1', () => {
  if (process.send === undefined) {
    start()
    return
  }
  process.on('disconnect', () => process.exit(0))
  process.on('message', (message) => {
    if (message === 'go') start()
    process.send({ message, ...usage() })
  })
  process.send({ message: 'ready', ...usage() })
})
