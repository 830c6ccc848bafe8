-- waits(job): whether a job waits for an attempt. What the partial indexes of waiting jobs say, too.
$1.locked_at IS NULL AND $1.attempts < $1.max_attempts
