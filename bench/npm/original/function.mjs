// A function made with the original's own knative-job-fn; it answers at once, and the library then posts the callback.
// PORT (8081), LOG_LEVEL=error to keep it from writing several lines per job. As a child it says 'ready'.

import { createRequire } from 'node:module'

const require = createRequire(import.meta.url)
const app = require('@constructive-io/knative-job-fn').default

app.post('/noop', (_request, response) => response.status(200).json({ success: true }))
app.listen(Number(process.env.PORT ?? 8081), '127.0.0.1', () => process.send?.({ message: 'ready' }))
