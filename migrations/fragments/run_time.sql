-- run_time(job): the seconds that an attempt which has ended took. A worker that has measured them says so in
-- run_times, as the lock is older where a job has waited for a slot.
greatest(least((run_times ->> $1.id::text)::float8, extract(epoch FROM clock_timestamp() - $1.locked_at)), 0)
