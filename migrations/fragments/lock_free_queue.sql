-- lock_free_queue(queue): whether the queue runs nothing, and its row is ours now. A text and no function: a claim asks
-- it row by row.
EXISTS (
    SELECT FROM @extschema@.job_queues q
     WHERE q.queue_name = $1 AND (q.locked_at IS NULL OR q.locked_at < stale) FOR UPDATE SKIP LOCKED)
