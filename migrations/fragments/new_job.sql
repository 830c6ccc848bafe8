-- new_job(): the INSERT of a job from variables with the names of enqueue_job's arguments. A text and no function, as
-- add_job's plain case is one call.
INSERT INTO @extschema@.jobs AS j
    (database_id, actor_id, entity_id, organization_id, task_identifier, payload, queue_name, run_at, max_attempts,
     priority, key)
VALUES
    (tenant, actor, entity, organization, identifier, coalesce(payload, '{}'), nullif(queue_name, ''),
     coalesce(run_at, now()), coalesce(max_attempts, 25), coalesce(priority, 0), job_key)
