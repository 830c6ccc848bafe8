// pg-boss.

import pg from 'pg'
import { PgBoss } from 'pg-boss'

import { main } from '../kit.mjs'

const QUEUE = 'noop'

async function boss(url, options) {
  const made = new PgBoss({ connectionString: url, schedule: false, ...options })
  made.on('error', (error) => console.error(error))
  await made.start()
  return made
}

function insertion({ payload, dueAt, priority }) {
  // Its larger numbers run earlier.
  return { data: payload, startAfter: dueAt, ...(priority === undefined ? {} : { priority: -priority }) }
}

await main({
  bulk: 5_000,
  // A queue of pg-boss is what a worker subscribes to, not a name that jobs serialise on.
  queues: false,
  priorities: true,
  settings: {
    throughput: 'batch 500, local concurrency 2, burst while batches are full, poll 0.5 s, LISTEN',
    latency: 'batch 1, local concurrency 24, poll 0.5 s, LISTEN',
  },

  async setup(url) {
    const client = new pg.Client(url)
    await client.connect()
    await client.query('DROP SCHEMA IF EXISTS pgboss CASCADE')
    const made = await boss(url, { supervise: false })
    await made.createQueue(QUEUE, { notify: true })
  },

  async connect(url, clients) {
    const made = await boss(url, { max: clients, supervise: false })
    return {
      addOne: (job) => made.send(QUEUE, job.payload, job.dueAt ? { startAfter: job.dueAt } : undefined),
      addMany: (jobs) => made.insert(QUEUE, jobs.map(insertion)),
      async left() {
        const { rows } = await made
          .getDb()
          .executeSql(`SELECT count(*)::int AS left FROM pgboss.job WHERE name = '${QUEUE}' AND state < 'completed'`)
        return rows[0].left
      },
    }
  },

  async prepare(url, profile, probe) {
    const made = await boss(url, { useListenNotify: true, max: 25 })
    const options =
      profile === 'throughput'
        ? { batchSize: 500, localConcurrency: 2, pollingIntervalSeconds: 0.5, burstWhenBatchFull: true }
        : { localConcurrency: 24, pollingIntervalSeconds: 0.5 }
    return {
      start: () =>
        made.work(QUEUE, options, async (jobs) => {
          for (const job of jobs) probe.hit(job.data.n)
        }),
      stop: () => made.stop({ graceful: true, timeout: 30_000 }),
    }
  },
})
