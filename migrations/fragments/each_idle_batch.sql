-- each_idle_batch(change): makes a change of all jobs among todo that do not run, in batches. The change is a
-- statement, or several, for those in jobs.locked. Afterwards running and held are those left alone. What somebody
-- holds is tried again for half a second: a claim, or another call, holds its rows for a moment.
--
-- One subtransaction locks and changes a batch. Rows that one locks and another changes would have a MultiXact each. At
-- the end nothing is left to do for all jobs at once: a claim has to pass all that is locked.
LOOP
    held := '{}';
    FOR batch IN SELECT b.ids FROM @internal@.id_batches(todo) AS b (ids) LOOP
        LOOP
            BEGIN
                jobs := @internal@.lock_idle_jobs(batch);
                $1
                EXIT;
            EXCEPTION WHEN SQLSTATE 'JB003' THEN
                NULL; -- Those that have begun are among the running now.
            END;
        END LOOP;
        running := running || jobs.running;
        held := held || jobs.held;
    END LOOP;
    until := coalesce(until, clock_timestamp() + interval '500 ms');
    EXIT WHEN held = '{}' OR clock_timestamp() > until;
    PERFORM pg_sleep(0.05);
    todo := held;
END LOOP;
