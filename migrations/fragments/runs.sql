-- runs(condition): whether job r runs, in the words of a partial index on what runs, with its other condition: a lock
-- that has expired counts only while the function that has the job may call back.
$1 AND coalesce(r.locked_at, '-infinity') > '-infinity' AND (r.locked_at >= stale OR r.deadline >= swept)
