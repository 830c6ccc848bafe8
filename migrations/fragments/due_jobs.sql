-- due_jobs(condition): locks due jobs, with their queues, and gives their ids as free and queued. It goes through the
-- priorities of the WITH before it, l, of which the next one is looked at only when the ones before did not fill the
-- batch. Each is bounded by run_at: jobs of the future are never touched however many there are.
SELECT array_agg(d.id) FILTER (WHERE d.queue_name IS NULL), array_agg(d.id) FILTER (WHERE d.queue_name IS NOT NULL)
  INTO free, queued
  FROM (SELECT due.id, due.queue_name
          FROM priorities l CROSS JOIN LATERAL (
               SELECT j.id, j.queue_name FROM @extschema@.jobs j
                WHERE j.locked_at IS NULL AND j.attempts < j.max_attempts
                  AND j.priority = l.priority AND $1 AND j.run_at <= now()
                  AND @takes(j.task_identifier)@
                  AND (j.queue_name IS NULL
                       OR j.queue_name NOT IN (SELECT unnest(busy)) AND @lock_free_queue(j.queue_name)@)
                ORDER BY j.run_at, j.id LIMIT max_jobs FOR UPDATE OF j SKIP LOCKED) due
         LIMIT max_jobs) d;
