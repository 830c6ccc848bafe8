-- or_replace(mode): what an insert of jobs (j) makes of the job that has the key already, in a key mode of enqueue_job.
-- A job that runs loses its key and is superseded; so is one of another tenant, which keeps its key, by which the call
-- sees whose it is. In mode ignore a job that waits or runs is locked, and not written.
ON CONFLICT (key) WHERE key IS NOT NULL DO UPDATE SET
    actor_id = CASE WHEN j.locked_at IS NULL THEN excluded.actor_id ELSE j.actor_id END,
    entity_id = CASE WHEN j.locked_at IS NULL THEN excluded.entity_id ELSE j.entity_id END,
    organization_id = CASE WHEN j.locked_at IS NULL THEN excluded.organization_id ELSE j.organization_id END,
    task_identifier = CASE WHEN j.locked_at IS NULL THEN excluded.task_identifier ELSE j.task_identifier END,
    payload = CASE WHEN j.locked_at IS NULL THEN excluded.payload ELSE j.payload END,
    queue_name = CASE WHEN j.locked_at IS NULL THEN excluded.queue_name ELSE j.queue_name END,
    run_at = CASE WHEN j.locked_at IS NOT NULL OR $1 = 'preserve_run_at' AND j.attempts = 0
                  THEN j.run_at ELSE excluded.run_at END,
    max_attempts = CASE WHEN j.locked_at IS NULL THEN excluded.max_attempts ELSE j.max_attempts END,
    priority = CASE WHEN j.locked_at IS NULL THEN excluded.priority ELSE j.priority END,
    attempts = CASE WHEN j.locked_at IS NULL THEN 0 ELSE j.max_attempts END,
    last_error = CASE WHEN j.locked_at IS NOT NULL THEN j.last_error END,
    superseded = j.locked_at IS NOT NULL OR j.database_id IS DISTINCT FROM excluded.database_id,
    key = CASE WHEN j.locked_at IS NULL OR j.database_id IS DISTINCT FROM excluded.database_id THEN j.key END,
    updated_at = clock_timestamp()
WHERE $1 <> 'ignore' OR j.locked_at IS NULL AND j.attempts >= j.max_attempts
   OR j.database_id IS DISTINCT FROM excluded.database_id
