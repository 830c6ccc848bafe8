// Loaded with `node --require`, before the original's own modules. @constructive-io/job-utils reads `jobsDefaults` of
// @pgpmjs/types, which the published versions of that package no longer export; without it the first read throws.
// The values are those that the original's documentation gives; the environment goes before them.
'use strict'

const { createRequire } = require('node:module')

const jobUtils = createRequire(require.resolve('@constructive-io/job-utils'))
const types = jobUtils('@pgpmjs/types')

types.jobsDefaults ??= {
  schema: { schema: 'app_jobs' },
  worker: { schema: 'app_jobs', hostname: 'worker-0', supportAny: true, supported: [], pollInterval: 1000 },
  scheduler: { schema: 'app_jobs', hostname: 'scheduler-0', supportAny: true, supported: [], pollInterval: 1000 },
  gateway: {
    gatewayUrl: process.env.INTERNAL_GATEWAY_URL,
    callbackUrl: process.env.INTERNAL_JOBS_CALLBACK_URL,
    callbackPort: Number(process.env.INTERNAL_JOBS_CALLBACK_PORT ?? 12345),
  },
}
