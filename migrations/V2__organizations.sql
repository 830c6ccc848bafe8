-- Who a job is for beside its tenant and its actor, as the original's newer versions have it. A plain INSERT takes them
-- from the transaction's settings; the functions do the same, with a clearer error for what is not a uuid.

-- A transaction that stands in the way ends the migration rather than hold up everybody who comes after it.
SET LOCAL lock_timeout = '5s';

-- No row is written anew for a default that is the same for all of them.
ALTER TABLE @extschema@.jobs
    ADD COLUMN entity_id uuid DEFAULT nullif(current_setting('jwt.claims.entity_id', true), '')::uuid,
    ADD COLUMN organization_id uuid DEFAULT nullif(current_setting('jwt.claims.organization_id', true), '')::uuid;
ALTER TABLE @extschema@.scheduled_jobs
    ADD COLUMN entity_id uuid DEFAULT nullif(current_setting('jwt.claims.entity_id', true), '')::uuid,
    ADD COLUMN organization_id uuid DEFAULT nullif(current_setting('jwt.claims.organization_id', true), '')::uuid;

SET LOCAL lock_timeout = DEFAULT;

-- The functions that migrate has installed: what is not here is another's. Kept by after_functions.sql.
CREATE TABLE @extschema@.schema_functions (
    signature text PRIMARY KEY,
    -- Of the files that they came from.
    digest text NOT NULL
);

COMMENT ON TABLE @extschema@.schema_functions IS
    E'@behavior -*\nThe functions of this schema, and from which text they were installed.';
