-- idle_jobs(): those of job_ids that do not run, or whose lock and deadline have passed, locked as chosen (id).
chosen AS MATERIALIZED (
    SELECT c.id FROM @extschema@.jobs c
     WHERE c.id = ANY (job_ids)
       AND (c.locked_at IS NULL OR c.locked_at < now() - interval '4 hours' AND coalesce(c.deadline < now(), true))
     ORDER BY c.id FOR UPDATE)
