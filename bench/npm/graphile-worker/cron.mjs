// The cron of graphile-worker, which runs inside a worker; this one has no job to do. Entries are read at the start and
// fire at whole minutes. Prints 'ready' when they are known to the database.
//
// Its environment: DATABASE_URL; COUNT entries, the first DUE of them at the instant AT (seconds since 1970, a whole
// minute), the others in the hours after it.

import { Logger, parseCronItems, run } from 'graphile-worker'
import { EventEmitter } from 'node:events'

const quiet = new Logger(() => (level, message) => {
  if (level === 'error') console.error(message)
})

const { AT, COUNT, DATABASE_URL, DUE } = process.env

function entry(n) {
  const later = n < Number(DUE) ? 0 : 60 + (n % 600)
  const due = new Date((Number(AT) + later * 60) * 1000)
  return { task: 'noop', identifier: `entry-${n}`, match: `${due.getUTCMinutes()} ${due.getUTCHours()} * * *` }
}

const events = new EventEmitter()
events.on('cron:started', () => console.log('ready'))
await run({
  preset: { worker: { connectionString: DATABASE_URL, concurrentJobs: 1, logger: quiet } },
  taskList: { other() {} },
  parsedCronItems: parseCronItems(Array.from({ length: Number(COUNT) }, (_, n) => entry(n))),
  events,
})
