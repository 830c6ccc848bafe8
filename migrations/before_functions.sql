-- Run before the functions are installed, in the same transaction: remembers which functions the schema has. CREATE OR
-- REPLACE would put one of ours in the place of one of the application's that has the same arguments;
-- after_functions.sql refuses that.
SET LOCAL search_path = pg_catalog, pg_temp;

SELECT set_config('jobs.functions_before', coalesce(
    (SELECT string_agg(p.oid::text, ' ') FROM pg_proc p
      WHERE p.pronamespace = '@extschema@'::regnamespace
        AND current_setting('jobs.carried_over', true) IS DISTINCT FROM 'yes'
        AND p.oid::regprocedure::text NOT IN (SELECT f.signature FROM @extschema@.schema_functions f)), ''), true);

-- What is installed now has the same xmin as this one, within a savepoint as well.
CREATE FUNCTION @extschema@.schema_marker() RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
