-- next_jobs(lock): of the jobs without a gate those behind the positions in after_*, as many as are wanted, priority by
-- priority: the next one is looked at only when the ones before did not fill the batch. Behind the position last_one
-- are those of all later priorities, too.
SELECT n.* FROM unnest(after_priorities, after_run_ats, after_ids) WITH ORDINALITY AS l (priority, run_at, id, position)
 CROSS JOIN LATERAL (
       SELECT j.id, j.priority, j.run_at, @misplaced(j)@ AS misplaced FROM @extschema@.jobs j
        WHERE j.gate_key IS NULL AND @waits(j)@ AND @takes(j.task_identifier)@ AND @not_refused(j)@
          AND (j.priority, j.run_at, j.id) > (l.priority, l.run_at, l.id)
          AND j.priority <= CASE WHEN l.position = last_one THEN 2147483647 ELSE l.priority END
        ORDER BY j.priority, j.run_at, j.id LIMIT wanted $1) n
 LIMIT wanted
