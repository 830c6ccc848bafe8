-- only_on(table): an error of a trigger function on another table. Asked by each trigger itself, as a call would cost
-- every statement.
IF TG_RELID <> '@extschema@.$1'::regclass THEN
    PERFORM @internal@.refuse_other_table(TG_RELID, '@extschema@.$1'::regclass);
END IF;
