// What the npm peers share: the command line of bench programs, the clocks and the measures.

import { readFileSync } from 'node:fs'
import { performance } from 'node:perf_hooks'

const FLAGS = {
  setup: [],
  enqueue: ['jobs', 'mode', 'clients', 'payload-bytes', 'queues', 'priorities', 'future', 'notify'],
  drain: ['jobs', 'workers', 'cap-seconds'],
  latency: ['jobs', 'rate'],
  idle: ['seconds'],
}

/** Prints the result as the last line and ends the process: libraries leave timers behind. */
export function finish(result) {
  process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit(0))
  return new Promise(() => {})
}

/** Says what this program cannot do: the harness writes a dash. */
export function unsupported(what) {
  process.stdout.write(`${JSON.stringify({ unsupported: what })}\n`, () => process.exit(2))
  return new Promise(() => {})
}

/** The command and its flags; `extra` are commands that only this program has, with their flags. */
export async function args(extra = {}) {
  const [command, ...words] = process.argv.slice(2)
  const known = { ...FLAGS, ...extra }[command]
  if (!known) await unsupported(command ?? 'no command')
  const flags = {}
  while (words.length > 0) {
    const flag = words.shift().replace(/^--/, '')
    if (flag !== 'url' && !known.includes(flag)) await unsupported(`--${flag}`)
    flags[flag] = flag === 'future' ? true : words.shift()
  }
  return { command, flags }
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** User and system time of this process so far, in seconds. */
export function cpuSeconds() {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

/** Starts the clocks; the returned function reads them. */
export function span() {
  const began = performance.now()
  const cpu = cpuSeconds()
  return () => ({ seconds: (performance.now() - began) / 1000, client_cpu_seconds: cpuSeconds() - cpu })
}

export function rssKb() {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))[1])
}

export function percentile(values, fraction) {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(sorted.length * fraction) - 1)] ?? 0
}

/** What handlers report to: how many ran, and when each one started. */
export class Probe {
  calls = 0
  starts = new Map()
  #waiting = []

  hit(job) {
    this.calls += 1
    if (!this.starts.has(job)) this.starts.set(job, performance.now())
    const woken = this.#waiting.filter(({ until }) => until())
    this.#waiting = this.#waiting.filter(({ until }) => !until())
    for (const { resolve } of woken) resolve(true)
  }

  /** Waits until `until` holds after a call, or for `ms`; whether it holds. */
  wait(until, ms) {
    if (until()) return Promise.resolve(true)
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), ms)
      this.#waiting.push({ until, resolve: (value) => (clearTimeout(timer), resolve(value)) })
    })
  }
}

/** How job `n` is to be made: its payload, the name of its queue, when it is due. */
function jobOf(n, flags) {
  const queues = Number(flags.queues ?? 0)
  const priorities = Number(flags.priorities ?? 0)
  return {
    payload: { n, pad: 'x'.repeat(Number(flags['payload-bytes'] ?? 0)) },
    queue: queues > 0 ? `queue-${n % queues}` : undefined,
    priority: priorities > 0 ? (n * 7_919) % priorities : undefined,
    dueAt: flags.future ? new Date(Date.now() + (86_400 + (n % 3600)) * 1000) : undefined,
  }
}

async function enqueue(rival, flags) {
  if (flags.queues && !rival.queues) await unsupported('--queues')
  if (flags.priorities && !rival.priorities) await unsupported('--priorities')
  if (flags.notify && flags.notify !== 'always') await unsupported('--notify demand')
  const jobs = Number(flags.jobs)
  const clients = Number(flags.clients ?? 1)
  const step = flags.mode === 'bulk' ? rival.bulk : 1
  const producer = await rival.connect(flags.url, clients)
  let next = 0
  const read = span()
  await Promise.all(
    Array.from({ length: clients }, async () => {
      while (next < jobs) {
        const first = next
        next = Math.min(jobs, next + step)
        const made = Array.from({ length: next - first }, (_, i) => jobOf(first + i, flags))
        await (flags.mode === 'bulk' ? producer.addMany(made) : producer.addOne(made[0]))
      }
    }),
  )
  return { jobs, ...read() }
}

async function drain(rival, flags) {
  const jobs = Number(flags.jobs)
  const probe = new Probe()
  const workers = []
  for (let i = 0; i < Number(flags.workers ?? 1); i += 1) {
    workers.push(await rival.prepare(flags.url, 'throughput', probe))
  }
  const read = span()
  await Promise.all(workers.map((worker) => worker.start()))
  await probe.wait(() => probe.calls >= jobs, Number(flags['cap-seconds'] ?? 3600) * 1000)
  const done = Math.min(jobs, probe.calls)
  const clocks = read()
  for (const worker of workers) await worker.stop()
  const left = await (await rival.connect(flags.url, 1)).left()
  return { jobs: done, ...clocks, left, settings: rival.settings.throughput }
}

async function latency(rival, flags) {
  const jobs = Number(flags.jobs)
  const rate = Number(flags.rate ?? 0)
  const probe = new Probe()
  const worker = await rival.prepare(flags.url, 'latency', probe)
  await worker.start()
  const producer = await rival.connect(flags.url, 16)
  await sleep(1000) // the worker's own start-up work must not count
  const calls = []
  const add = async (n) => {
    const called = performance.now()
    await producer.addOne(jobOf(n, {}))
    calls[n] = { called, returned: performance.now() }
  }
  if (rate > 0) {
    const began = performance.now()
    const pending = []
    for (let n = 0; n < jobs; ) {
      await sleep(1)
      // A tick may be late: all jobs whose moment has passed go now, so that the rate holds.
      const due = Math.min(jobs, Math.floor(((performance.now() - began) / 1000) * rate))
      for (; n < due; n += 1) pending.push(add(n))
    }
    await Promise.all(pending)
    await probe.wait(() => probe.calls >= jobs, 60_000)
  } else {
    for (let n = 0; n < jobs; n += 1) {
      await add(n)
      if (!(await probe.wait(() => probe.starts.has(n), 60_000))) break
      await sleep(20)
    }
  }
  const started = calls.map((call, n) => ({ ...call, at: probe.starts.get(n) })).filter(({ at }) => at !== undefined)
  const total = started.map(({ called, at }) => at - called)
  await worker.stop()
  return {
    p50_ms: percentile(total, 0.5),
    p99_ms: percentile(total, 0.99),
    after_commit_p50_ms: percentile(started.map(({ returned, at }) => at - returned), 0.5),
    jobs: started.length,
    settings: rival.settings.latency,
  }
}

async function idle(rival, flags) {
  const worker = await rival.prepare(flags.url, 'latency', new Probe())
  await worker.start()
  await sleep(1000)
  const read = span()
  await sleep(Number(flags.seconds) * 1000)
  const result = { ...read(), rss_kb: rssKb() }
  await worker.stop()
  return result
}

/**
 * Runs this process's command for one rival:
 * - `setup(url)`; `connect(url, clients)` → `{ addMany(jobs), addOne(job), left() }`;
 * - `prepare(url, 'throughput' | 'latency', probe)` → `{ start(), stop() }`, a connected worker that does not run yet;
 * - `bulk`: jobs of one addMany at the most; `queues`: whether jobs can name a queue; `priorities`: whether they
 *   can have any of a million; `settings`, in words.
 */
export async function main(rival) {
  const { command, flags } = await args()
  if (command === 'setup') await rival.setup(flags.url)
  const commands = { setup: async () => ({}), enqueue, drain, latency, idle }
  await finish(await commands[command](rival, flags))
}
