// graphile-worker, from npm.

import { Logger, makeWorkerUtils, run } from 'graphile-worker'
import pg from 'pg'

import { main } from '../kit.mjs'

const quiet = new Logger(() => (level, message) => {
  if (level === 'error') console.error(message)
})

function spec({ queue, dueAt }) {
  return { queueName: queue, runAt: dueAt }
}

async function pool(url, max) {
  const made = new pg.Pool({ connectionString: url, max })
  made.on('error', (error) => console.error(error))
  return made
}

await main({
  bulk: 5_000,
  queues: true,
  settings: {
    throughput: 'as its performance page: 24 jobs, pool 25, local queue 500, completions batched with delay 0; poll 10 ms',
    latency: '24 jobs, pool 25, LISTEN, poll 2 s (default), neither local queue nor batching',
  },

  async setup(url) {
    const connection = await pool(url, 1)
    await connection.query('DROP SCHEMA IF EXISTS graphile_worker CASCADE')
    const utils = await makeWorkerUtils({ connectionString: url, logger: quiet })
    await utils.migrate()
  },

  async connect(url, clients) {
    const pgPool = await pool(url, clients)
    const utils = await makeWorkerUtils({ pgPool, logger: quiet })
    return {
      addOne: (job) => utils.addJob('noop', job.payload, spec(job)),
      addMany: (jobs) =>
        utils.addJobs(jobs.map((job) => ({ identifier: 'noop', payload: job.payload, ...spec(job) }))),
      async left() {
        const { rows } = await pgPool.query('SELECT count(*)::int AS left FROM graphile_worker._private_jobs')
        return rows[0].left
      },
    }
  },

  async prepare(url, profile, probe) {
    const batching = { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0, pollInterval: 10 }
    let runner
    return {
      async start() {
        runner = await run({
          preset: {
            worker: {
              connectionString: url,
              concurrentJobs: 24,
              maxPoolSize: 25,
              logger: quiet,
              ...(profile === 'throughput' ? batching : {}),
            },
          },
          noHandleSignals: true,
          taskList: { noop: (payload) => probe.hit(payload.n) },
        })
      },
      stop: () => runner.stop(),
    }
  },
})
