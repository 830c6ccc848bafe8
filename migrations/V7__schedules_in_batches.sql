-- Schedules by the hundred thousand: what is done per statement costs what its rows cost, not their square.

-- The same notifications as before. Old and new rows are compared as sets: a join of the two, planned when a statement had
-- a single row, is a nested loop for good (7 s for an update of 10,000 rows).
CREATE OR REPLACE FUNCTION @extschema@.tg_scheduled_jobs_changed() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF EXISTS (SELECT FROM new_rows) THEN
            PERFORM pg_notify('scheduled_jobs:insert', '');
        END IF;
    ELSIF TG_OP = 'UPDATE' THEN
        IF EXISTS (SELECT n.id FROM new_rows n WHERE n.locked_at IS NULL
                   INTERSECT
                   SELECT o.id FROM old_rows o WHERE o.locked_at IS NOT NULL) THEN
            PERFORM pg_notify('scheduled_jobs:insert', '');
        END IF;
        IF EXISTS (SELECT o.id, o.locked_by FROM old_rows o WHERE o.locked_by IS NOT NULL
                   EXCEPT
                   SELECT n.id, n.locked_by FROM new_rows n)
           OR EXISTS (SELECT o.id, o.schedule_info::text FROM old_rows o
                      EXCEPT
                      SELECT n.id, n.schedule_info::text FROM new_rows n) THEN
            PERFORM pg_notify('scheduled_jobs:change', '');
        END IF;
    ELSIF EXISTS (SELECT FROM old_rows) THEN
        PERFORM pg_notify('scheduled_jobs:change', '');
    END IF;
    RETURN NULL;
END
$$;

-- The rows to claim are looked up by their ids: joined with the list of them, the whole table is read for each batch. A
-- claim that finds nothing writes nothing and calls no trigger.
CREATE OR REPLACE FUNCTION @extschema@.claim_scheduled_jobs(worker_id text, task_identifiers text[], max_schedules int)
RETURNS SETOF @extschema@.scheduled_jobs
LANGUAGE plpgsql AS $$
DECLARE
    free bigint[];
BEGIN
    PERFORM @extschema@.require_worker_id(worker_id);
    free := ARRAY(
        SELECT s.id FROM @extschema@.scheduled_jobs s
         WHERE s.locked_at IS NULL AND (task_identifiers IS NULL OR s.task_identifier = ANY (task_identifiers))
         ORDER BY s.priority, s.id LIMIT max_schedules FOR UPDATE SKIP LOCKED);
    IF cardinality(free) > 0 THEN
        RETURN QUERY
        UPDATE @extschema@.scheduled_jobs s SET locked_by = worker_id, locked_at = now()
         WHERE s.id = ANY (free)
        RETURNING s.*;
    END IF;
END
$$;

-- The scheduler's own call: run_scheduled_job for each id, in one transaction, so that fires of the same instant share a
-- round trip and a commit. What one refuses is undone and told (sql_state, message), and harms no other.
--
-- A producer's open transaction can hold the row of a schedule's queue, and one such schedule must not hold up the others:
-- it is refused with 55P03 rather than waited for. The call ends with it, since the rows that the fires before it wrote
-- are locked meanwhile; ids that were not tried have no row in the answer.
CREATE FUNCTION @extschema@.materialise_scheduled_jobs(
    ids bigint[], OUT schedule_id bigint, OUT job_id bigint, OUT sql_state text, OUT message text
) RETURNS SETOF record
LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
BEGIN
    FOREACH schedule_id IN ARRAY ids LOOP
        sql_state := NULL;
        message := NULL;
        BEGIN
            SELECT j.id INTO job_id FROM @extschema@.run_scheduled_job(schedule_id) j;
        EXCEPTION WHEN OTHERS THEN
            job_id := NULL;
            sql_state := SQLSTATE;
            message := SQLERRM;
        END;
        RETURN NEXT;
        EXIT WHEN sql_state = '55P03';
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION @extschema@.materialise_scheduled_jobs(bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.materialise_scheduled_jobs(bigint[]) IS
    'run_scheduled_job for many: what each made or why it made nothing. Ends with the first that waits for a lock.';
