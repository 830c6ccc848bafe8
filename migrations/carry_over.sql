-- Run once, on a schema that the last version before the first release has made: its tables are those of V1. The
-- history is written anew, and functions are known by their names from then on.
DELETE FROM @extschema@.schema_history;

DROP FUNCTION @extschema@.claim_instance_jobs(
    uuid, text, text[], int, interval, text[], boolean, int[], timestamptz[], bigint[], text[]);
DROP FUNCTION @extschema@.complete_held_jobs(bigint[], text[]);
DROP FUNCTION @extschema@.fail_held_jobs(bigint[], text[], text[]);
DROP FUNCTION @extschema@.fail_held_jobs(bigint[], text[], bigint[], text[], float8[], boolean[]);
DROP FUNCTION @extschema@.materialise_scheduled_jobs(bigint[]);
DROP FUNCTION @extschema@.enqueue_job(uuid, uuid, text, json, text, text, timestamptz, int, int);

-- The forms with names that people try, of which there may be others now.
DO $misnamed$
DECLARE
    form regprocedure;
BEGIN
    FOR form IN
        SELECT p.oid FROM pg_proc p
         WHERE p.pronamespace = '@extschema@'::regnamespace
           AND p.proargtypes::oid[] @> ARRAY['@extschema@.misnamed'::regtype::oid]
    LOOP
        EXECUTE format('DROP FUNCTION %s', form);
    END LOOP;
END
$misnamed$;

-- The functions that are there are this schema's own.
SELECT set_config('jobs.carried_over', 'yes', true);
