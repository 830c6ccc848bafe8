-- idle(job): whether an operator's function may change the job: it does not run, or its lock and deadline have passed.
($1.locked_at IS NULL OR $1.locked_at < now() - interval '4 hours' AND coalesce($1.deadline < now(), true))
