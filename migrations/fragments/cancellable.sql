-- cancellable(job): whether a job waits, runs or was accepted. One that has failed for good has ended.
($1.locked_at IS NOT NULL OR $1.attempts < $1.max_attempts)
