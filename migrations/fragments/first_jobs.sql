-- first_jobs(lock): the first of the jobs without a gate, as many as are wanted.
SELECT j.id, j.priority, j.run_at, @misplaced(j)@ AS misplaced FROM @extschema@.jobs j
 WHERE j.gate_key IS NULL AND @waits(j)@ AND @takes(j.task_identifier)@ AND @not_refused(j)@
 ORDER BY j.priority, j.run_at, j.id LIMIT wanted $1
