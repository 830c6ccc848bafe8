-- element_per_job(): an error when an array has another number of elements than there are identifiers. It is a text, as
-- the functions with it run as their caller, who may call none of the internal ones.
odd := (
    SELECT format('%s has %s elements for %s identifiers', a.name, a.elements, coalesce(cardinality(identifiers), 0))
      FROM (VALUES ('payloads', cardinality(payloads)), ('job_keys', cardinality(job_keys)),
                   ('key_modes', cardinality(key_modes)), ('queue_names', cardinality(queue_names)),
                   ('run_ats', cardinality(run_ats)), ('max_attempts', cardinality(max_attempts)),
                   ('priorities', cardinality(priorities)), ('db_ids', cardinality(db_ids)),
                   ('actor_ids', cardinality(actor_ids))) AS a (name, elements)
     WHERE a.elements <> coalesce(cardinality(identifiers), 0) LIMIT 1);
IF odd IS NOT NULL THEN
    RAISE EXCEPTION '%', odd USING ERRCODE = 'array_subscript_error',
        HINT = 'Give one element a job, NULL for the default, or NULL for the whole array.';
END IF;
