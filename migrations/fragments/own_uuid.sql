-- own_uuid('setting'): the uuid in a setting of the transaction; NULL for anything else, which is nobody's own. It is a
-- text and no function, since the functions with it run as their caller, who may call none of the internal ones.
(CASE WHEN current_setting($1, true) ~* '^\{?([0-9a-f]{4}-?){8}\}?$' THEN current_setting($1, true)::uuid END)
