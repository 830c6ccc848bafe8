-- priorities(): the priorities of jobs that wait, one index probe each, and a NULL behind the last. Whoever
-- reads only the first ones has only those looked for.
priorities (priority) AS (
    (SELECT j.priority FROM @extschema@.jobs j
      WHERE j.locked_at IS NULL AND j.attempts < j.max_attempts ORDER BY j.priority LIMIT 1)
    UNION ALL
    SELECT (SELECT j.priority FROM @extschema@.jobs j
             WHERE j.locked_at IS NULL AND j.attempts < j.max_attempts AND j.priority > p.priority
             ORDER BY j.priority LIMIT 1)
      FROM priorities p WHERE p.priority IS NOT NULL)
