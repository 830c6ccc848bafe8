// The original: its SQL from @pgpm/database-jobs, its worker and callback server (worker.mjs) in a child process.
//
// setup       loads the package's SQL into the schema app_jobs
// enqueue     by app_jobs.add_job, which is all it has: bulk is one statement per 5,000 jobs
// idle        the worker process
// http-drain  --jobs N --mode answer|callback [--function-url URL] [--workers W] [--cap-seconds S]
// http-latency --jobs N [--function-url URL]
//
// A job of the original is ended by its callback only, whatever the function answers: both modes are the same run.
// The function is asked at <function-url>/noop; without --function-url, function.mjs is started. The clock runs from
// the moment the worker process, already up, starts its workers, until the table is empty.

import { fork } from 'node:child_process'
import { readFileSync, readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { createServer } from 'node:net'
import { dirname, join } from 'node:path'
import { performance } from 'node:perf_hooks'

import pg from 'pg'

import { args, finish, percentile, sleep, span, unsupported } from '../kit.mjs'

const HERE = import.meta.dirname
const DATABASE_ID = '00000000-0000-0000-0000-000000000000'
const ADD = `SELECT id FROM app_jobs.add_job($1::uuid, 'noop', $2::json, run_at := coalesce($3::timestamptz, now()))`
const ADD_MANY = `SELECT count(*) FROM unnest($2::json[], $3::timestamptz[]) AS new (payload, due),
  LATERAL app_jobs.add_job($1::uuid, 'noop', new.payload, run_at := coalesce(new.due, now()))`
const children = []

async function pool(url, max) {
  const made = new pg.Pool({ connectionString: url, max })
  made.on('error', (error) => console.error(error))
  return made
}

async function setup(url) {
  const client = new pg.Client(url)
  await client.connect()
  client.on('notice', () => {})
  await client.query('DROP SCHEMA IF EXISTS app_jobs CASCADE')
  // Its SQL is a module of a larger system: it grants to that system's roles and needs two extensions.
  for (const role of ['administrator']) {
    const { rowCount } = await client.query('SELECT FROM pg_roles WHERE rolname = $1', [role])
    if (rowCount === 0) await client.query(`CREATE ROLE ${role}`)
  }
  for (const extension of ['uuid-ossp', 'pgcrypto']) {
    await client.query(`CREATE EXTENSION IF NOT EXISTS "${extension}" SCHEMA public`)
  }
  const folder = join(dirname(createRequire(import.meta.url).resolve('@pgpm/database-jobs/package.json')), 'sql')
  const [file] = readdirSync(folder).filter((name) => name.endsWith('.sql'))
  // The first line is psql's guard against loading it by hand.
  await client.query(readFileSync(join(folder, file), 'utf8').replace(/^\\echo.*$/m, ''))
  await client.end()
  return {}
}

async function enqueue(url, flags) {
  if (flags.queues) await unsupported('--queues')
  if (flags.notify && flags.notify !== 'always') await unsupported('--notify demand')
  const jobs = Number(flags.jobs)
  const clients = Number(flags.clients ?? 1)
  const bulk = flags.mode === 'bulk'
  const producer = await pool(url, clients)
  const pad = 'x'.repeat(Number(flags['payload-bytes'] ?? 0))
  const payload = (n) => JSON.stringify({ n, pad })
  const due = (n) => (flags.future ? new Date(Date.now() + (86_400 + (n % 3600)) * 1000) : null)
  let next = 0
  const read = span()
  await Promise.all(
    Array.from({ length: clients }, async () => {
      while (next < jobs) {
        const first = next
        next = Math.min(jobs, next + (bulk ? 5_000 : 1))
        const numbers = Array.from({ length: next - first }, (_, i) => first + i)
        if (bulk) await producer.query(ADD_MANY, [DATABASE_ID, numbers.map(payload), numbers.map(due)])
        else await producer.query(ADD, [DATABASE_ID, payload(first), due(first)])
      }
    }),
  )
  return { jobs, ...read() }
}

function freePort() {
  return new Promise((resolve, reject) => {
    const probe = createServer().once('error', reject)
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address()
      probe.close(() => resolve(port))
    })
  })
}

/** A child process; `ask(message)` resolves with its answer. */
async function child(file, env) {
  const made = fork(join(HERE, file), {
    execArgv: ['--require', join(HERE, 'shim.cjs')],
    env: { ...process.env, LOG_LEVEL: 'error', NODE_ENV: 'production', ...env },
    // Its stdout is the libraries' log; the last line of ours is the result.
    stdio: ['ignore', process.stderr, process.stderr, 'ipc'],
  })
  children.push(made)
  const waiting = new Map()
  made.on('message', (answer) => waiting.get(answer.message)?.resolve(answer))
  made.on('exit', (code) => {
    for (const { reject } of waiting.values()) reject(new Error(`${file} ended with ${code}`))
  })
  const said = (message) => new Promise((resolve, reject) => waiting.set(message, { resolve, reject }))
  await said('ready')
  return {
    said,
    ask(message) {
      const answered = said(message)
      made.send(message)
      return answered
    },
  }
}

async function worker(url, flags, env = {}) {
  let gateway = flags['function-url']
  if (gateway === undefined) {
    const port = await freePort()
    await child('function.mjs', { PORT: String(port) })
    gateway = `http://127.0.0.1:${port}`
  }
  const { hostname, port, username, password, pathname, searchParams } = new URL(url)
  const callback = await freePort()
  return child('worker.mjs', {
    PGHOST: searchParams.get('host') ?? hostname,
    PGPORT: port || '5432',
    PGUSER: decodeURIComponent(username),
    PGPASSWORD: decodeURIComponent(password),
    PGDATABASE: pathname.slice(1),
    INTERNAL_GATEWAY_URL: gateway.replace(/\/$/, ''),
    KNATIVE_SERVICE_URL: gateway.replace(/\/$/, ''),
    INTERNAL_JOBS_CALLBACK_PORT: String(callback),
    INTERNAL_JOBS_CALLBACK_URL: `http://127.0.0.1:${callback}/callback`,
    JOBS_SUPPORT_ANY: 'true',
    WORKERS: flags.workers ?? '1',
    ...env,
  })
}

async function left(connection) {
  const { rows } = await connection.query('SELECT count(*)::int AS left FROM app_jobs.jobs')
  return rows[0].left
}

async function httpDrain(url, flags) {
  const jobs = Number(flags.jobs)
  await enqueue(url, { jobs, mode: 'bulk' })
  const connection = await pool(url, 1)
  const original = await worker(url, flags)
  const deadline = performance.now() + Number(flags['cap-seconds'] ?? 3600) * 1000
  const before = await original.ask('usage')
  const read = span()
  await original.ask('go')
  while (performance.now() < deadline) {
    const { rowCount } = await connection.query('SELECT FROM app_jobs.jobs LIMIT 1')
    if (rowCount === 0) break
    await sleep(5)
  }
  const { seconds } = read()
  const after = await original.ask('usage')
  const remaining = await left(connection)
  const settings = `${flags.workers ?? 1} worker(s) with the callback server in one Node process, LOG_LEVEL=error`
  return { jobs: jobs - remaining, seconds, client_cpu_seconds: after.cpu - before.cpu, left: remaining, settings }
}

async function httpLatency(url, flags) {
  const connection = await pool(url, 1)
  const original = await worker(url, flags, { TIMED: '1' })
  await original.ask('go')
  await sleep(1000)
  const times = []
  for (let n = 0; n < Number(flags.jobs); n += 1) {
    const done = original.said('done')
    const called = performance.now()
    await connection.query(ADD, [DATABASE_ID, JSON.stringify({ n, pad: '' }), null])
    await done
    times.push(performance.now() - called)
    await sleep(20)
  }
  if ((await left(connection)) > 0) throw new Error('jobs are left')
  return { p50_ms: percentile(times, 0.5), p99_ms: percentile(times, 0.99), jobs: times.length }
}

async function idle(url, flags) {
  const original = await worker(url, { ...flags, 'function-url': 'http://127.0.0.1:9' })
  await original.ask('go')
  await sleep(1000)
  const before = await original.ask('usage')
  const read = span()
  await sleep(Number(flags.seconds) * 1000)
  const { seconds } = read()
  const after = await original.ask('usage')
  return { client_cpu_seconds: after.cpu - before.cpu, seconds, rss_kb: after.rss_kb }
}

const { command, flags } = await args({
  'http-drain': ['jobs', 'mode', 'function-url', 'workers', 'cap-seconds'],
  'http-latency': ['jobs', 'mode', 'function-url'],
})
const commands = { setup, enqueue, idle, 'http-drain': httpDrain, 'http-latency': httpLatency }
if (!commands[command]) await unsupported(`${command}: it has no handlers in its own process`)
try {
  const result = await commands[command](flags.url, flags)
  for (const made of children) made.kill()
  await finish(result)
} catch (error) {
  for (const made of children) made.kill()
  console.error(error)
  process.exit(1)
}
