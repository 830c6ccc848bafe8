-- claim_setting('setting'): the uuid in a setting of the transaction such as jwt.claims.user_id, or NULL; an error
-- where it is none. Looked at by what it costs: a setting that is not there, or empty, never gets as far as the
-- function.
CASE WHEN current_setting($1, true) <> '' THEN @internal@.claim_uuid($1) END
