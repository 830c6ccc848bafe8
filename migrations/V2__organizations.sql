-- Who a job is for beside its tenant and its actor, as the original's newer versions have it. A plain INSERT takes them
-- from the transaction's settings; the functions do the same, with a clearer error for what is not a uuid.

-- A transaction that stands in the way ends the migration rather than hold up everybody who comes after it; migrate
-- tries again. One order for everybody who locks both tables.
SET LOCAL lock_timeout = '2s';
LOCK TABLE @extschema@.scheduled_jobs, @extschema@.jobs IN ACCESS EXCLUSIVE MODE;

-- Rows that exist get what the default is now: none, whatever this session's settings are. They are not written anew.
SELECT set_config('jwt.claims.entity_id', '', true), set_config('jwt.claims.organization_id', '', true);
ALTER TABLE @extschema@.scheduled_jobs
    ADD COLUMN entity_id uuid DEFAULT nullif(current_setting('jwt.claims.entity_id', true), '')::uuid,
    ADD COLUMN organization_id uuid DEFAULT nullif(current_setting('jwt.claims.organization_id', true), '')::uuid;
ALTER TABLE @extschema@.jobs
    ADD COLUMN entity_id uuid DEFAULT nullif(current_setting('jwt.claims.entity_id', true), '')::uuid,
    ADD COLUMN organization_id uuid DEFAULT nullif(current_setting('jwt.claims.organization_id', true), '')::uuid;

SET LOCAL lock_timeout = DEFAULT;

-- The functions that migrate has installed: what is not here is another's.
CREATE TABLE @extschema@.schema_functions (
    -- As regprocedure writes it without a search_path.
    signature text PRIMARY KEY
);
COMMENT ON TABLE @extschema@.schema_functions IS E'@behavior -*\nThe functions of this schema that migrate installs.';

-- From which text functions and triggers were installed. version: a higher one is newer.
CREATE TABLE @extschema@.schema_state (
    part text PRIMARY KEY CHECK (part IN ('functions', 'triggers')),
    version int NOT NULL,
    digest text NOT NULL
);
COMMENT ON TABLE @extschema@.schema_state IS
    E'@behavior -*\nFrom which text the functions and triggers of this schema were installed.';
