-- What somebody sets for gates: pauses, limits and rates.

-- The name under which a gate's row stands; an error when there is no such gate. without: a kind that the caller is not
-- for.
CREATE OR REPLACE FUNCTION @internal@.gate_name(kind text, name text, without text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF kind IS NULL OR kind NOT IN ('task', 'queue', 'tenant', 'host', 'all') OR kind = without THEN
        RAISE EXCEPTION 'kind is %', coalesce(quote_literal(kind), 'NULL') USING ERRCODE = 'invalid_parameter_value',
            HINT = concat('Give task, queue, tenant or host', CASE WHEN without IS NULL THEN ', or all' END, '.');
    ELSIF kind = 'all' THEN
        IF name IS NOT NULL THEN
            RAISE EXCEPTION 'name is % for the kind all', quote_literal(name)
                USING ERRCODE = 'invalid_parameter_value', HINT = 'all has no name: give NULL.';
        END IF;
        RETURN '';
    ELSIF name IS NULL OR name = '' THEN
        RAISE EXCEPTION 'name is % for the kind %', coalesce(quote_literal(name), 'NULL'), kind
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('Give the name of one %1$s, or ''*'' for each %1$s that has no row of its own.', kind);
    ELSIF kind = 'tenant' AND name <> '*' THEN
        IF name !~* '^\{?([0-9a-f]{4}-?){8}\}?$' THEN
            RAISE EXCEPTION 'name is % for the kind tenant', quote_literal(name)
                USING ERRCODE = 'invalid_parameter_value', HINT = 'A tenant is a uuid, the database_id of its jobs.';
        END IF;
        RETURN name::uuid::text;
    ELSIF kind = 'host' AND name <> '*' THEN
        IF name !~* '^https?://(\[[0-9a-f:.]+\]|[^][/?#@:\s]+)(:[0-9]{1,5})?/?$' THEN
            RAISE EXCEPTION 'name is % for the kind host', quote_literal(name)
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'A host is the beginning of a function''s URL: http://functions:8080, say.';
        END IF;
        -- As the workers have it: without the scheme's own port.
        RETURN regexp_replace(rtrim(lower(name), '/'), '^(http(?=://.*:80$)|https(?=://.*:443$))(.*):[0-9]+$', '\1\2');
    END IF;
    RETURN name;
END
$$;

-- Another operator's transaction has changed the gate, and is open.
CREATE OR REPLACE FUNCTION @internal@.refuse_held_gate(kind text, name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'another transaction holds the gate % or one that says nothing any more', concat_ws(' ', kind, name)
        USING ERRCODE = 'lock_not_available',
              HINT = 'Call again when it has ended. pg_stat_activity has the transactions that are open.';
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.pause(
    kind text, name text, until timestamptz DEFAULT NULL, reason text DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql SET lock_timeout = '2s' SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gate_name CONSTANT text := @internal@.gate_name(kind, name);
    woken boolean;
BEGIN
    IF until <= clock_timestamp() THEN
        RAISE EXCEPTION 'until is %, which is past', until USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give a later time, or NULL for a pause until resume.';
    END IF;
    DELETE FROM @extschema@.gates g WHERE NOT @gate_says(g)@;
    INSERT INTO @extschema@.gates AS g (kind, name, paused_at, paused_until, reason)
    VALUES (pause.kind, gate_name, clock_timestamp(), pause.until, pause.reason)
    ON CONFLICT ON CONSTRAINT gates_pkey DO UPDATE
       SET paused_at = CASE WHEN g.paused_at IS NOT NULL AND coalesce(g.paused_until > now(), true) THEN g.paused_at
                            ELSE excluded.paused_at END,
           paused_until = excluded.paused_until, reason = excluded.reason;
    -- So that they look when it is over.
    woken := @internal@.wake_workers(EXISTS (SELECT FROM @extschema@.settings));
EXCEPTION WHEN lock_not_available THEN
    PERFORM @internal@.refuse_held_gate(kind, name);
END
$$;

COMMENT ON FUNCTION @extschema@.pause(text, text, timestamptz, text) IS
    'Starts no more jobs of a task, queue, tenant, host or of all until resume, or until the given time. '
    'What runs goes on, and new jobs are accepted.';

CREATE OR REPLACE FUNCTION @extschema@.resume(kind text, name text) RETURNS void
LANGUAGE plpgsql SET lock_timeout = '2s' SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gate_name CONSTANT text := @internal@.gate_name(kind, name);
    woken boolean;
BEGIN
    -- A host that has closed by itself opens as well.
    UPDATE @extschema@.gates g
       SET paused_at = NULL, paused_until = NULL, reason = NULL, closed_until = NULL, closed_reason = NULL,
           probe_pause = NULL
     WHERE g.kind = resume.kind AND g.name = gate_name;
    DELETE FROM @extschema@.gates g WHERE NOT @gate_says(g)@;
    woken := @internal@.wake_workers(EXISTS (SELECT FROM @extschema@.settings));
EXCEPTION WHEN lock_not_available THEN
    PERFORM @internal@.refuse_held_gate(kind, name);
END
$$;

COMMENT ON FUNCTION @extschema@.resume(text, text) IS
    'Ends a pause, and opens a host that has closed by itself. Nothing happens when there is neither.';

-- Waits for the claims under way, and has the lock that keeps new ones away until the transaction ends.
CREATE OR REPLACE FUNCTION @internal@.lock_limits() RETURNS void
LANGUAGE plpgsql SET lock_timeout = '2s' SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lock CONSTANT bigint := @limits_lock()@;
BEGIN
    PERFORM pg_advisory_xact_lock(lock);
EXCEPTION WHEN lock_not_available THEN
    RAISE EXCEPTION 'a transaction that has claimed jobs has been open for 2 s'
        USING ERRCODE = 'lock_not_available',
              DETAIL = format('Server processes: %s.', (
                  SELECT string_agg(l.pid::text, ', ') FROM pg_locks l
                   WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                     AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                     AND (l.classid::bigint << 32) + l.objid::bigint = lock)),
              HINT = 'Call set_limit again when it has ended.';
END
$$;

-- No limit may be exceeded by a claim that does not know it. So claims under way end first, unless a limit of a task or
-- tenant is only lifted. What runs already gets the key by which it is counted from the triggers of gates.
CREATE OR REPLACE FUNCTION @extschema@.set_limit(
    kind text, name text, max_running int DEFAULT NULL, rate int DEFAULT NULL, per interval DEFAULT '1 second',
    burst int DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql SET lock_timeout = '2s' SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gate_name CONSTANT text := @internal@.gate_name(kind, name, 'all');
    fault text;
    help text;
    before @extschema@.gates;
    after @extschema@.gates;
    woken boolean;
BEGIN
    IF max_running < 1 THEN
        fault := format('max_running is %s', max_running);
        help := 'Give at least 1, or NULL for no limit. pause keeps all jobs from starting.';
    ELSIF rate < 1 THEN
        fault := format('rate is %s', rate);
        help := 'Give at least 1, or NULL for no limit; a longer per is a lower rate.';
    ELSIF rate IS NULL AND burst IS NOT NULL THEN
        fault := format('burst is %s without a rate', burst);
        help := 'Give the rate as well: how many jobs may start per interval.';
    ELSIF rate IS NOT NULL AND (per IS NULL OR per NOT BETWEEN interval '1 millisecond' AND interval '366 days') THEN
        fault := format('per is %s', coalesce(quote_literal(per), 'NULL'));
        help := 'Give the interval in which so many jobs may start: 1 millisecond to 366 days.';
    ELSIF burst < 1 THEN
        fault := format('burst is %s', burst);
        help := 'Give at least 1: how many jobs may start at once. NULL is 1.';
    ELSIF rate / extract(epoch FROM per) > 1000000 THEN
        fault := format('rate is %s per %s', rate, per);
        help := 'Give at most a million per second, or NULL for no limit.';
    ELSIF burst * extract(epoch FROM per) / rate > 100 * 366 * 86400.0 THEN
        fault := format('burst is %s, which takes more than 100 years to fill', burst);
        help := 'Give a smaller burst.';
    END IF;
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION '%', fault USING ERRCODE = 'invalid_parameter_value', HINT = help;
    END IF;

    IF set_limit.max_running IS NOT NULL OR set_limit.rate IS NOT NULL
       OR EXISTS (SELECT FROM @extschema@.gates g
                   WHERE g.kind = set_limit.kind AND (g.name = '*' AND gate_name <> '*'
                         OR g.kind = 'queue' AND g.name = gate_name AND g.max_running > 1))
    THEN
        -- The trigger of gates takes it as well. Whoever holds a row of gates must not wait for it.
        PERFORM @internal@.lock_limits();
    END IF;

    SELECT * INTO before FROM @extschema@.gates g
     WHERE g.kind = set_limit.kind AND g.name IN (gate_name, '*') AND (g.max_running IS NOT NULL OR g.rate IS NOT NULL)
     ORDER BY g.name = '*' LIMIT 1;
    INSERT INTO @extschema@.gates AS g (kind, name, max_running, rate, per, burst)
    VALUES (set_limit.kind, gate_name, set_limit.max_running, set_limit.rate,
            CASE WHEN set_limit.rate IS NOT NULL THEN set_limit.per END,
            CASE WHEN set_limit.rate IS NOT NULL THEN coalesce(set_limit.burst, 1) END)
    ON CONFLICT ON CONSTRAINT gates_pkey DO UPDATE
       SET max_running = excluded.max_running, rate = excluded.rate, per = excluded.per, burst = excluded.burst,
           set_at = excluded.set_at;
    DELETE FROM @extschema@.gates g WHERE NOT @gate_says(g)@;
    SELECT * INTO after FROM @extschema@.gates g
     WHERE g.kind = set_limit.kind AND g.name IN (gate_name, '*') AND (g.max_running IS NOT NULL OR g.rate IS NOT NULL)
     ORDER BY g.name = '*' LIMIT 1;

    -- What has been taken from a bucket stays taken, as far as the new one can hold it.
    IF before.rate IS NULL OR after.rate IS NULL THEN
        DELETE FROM @extschema@.gate_tokens t
         WHERE t.kind = set_limit.kind AND (t.name = gate_name OR gate_name = '*' AND NOT EXISTS (
               SELECT FROM @extschema@.gates g
                WHERE g.kind = t.kind AND g.name = t.name AND (g.max_running IS NOT NULL OR g.rate IS NOT NULL)));
    ELSE
        UPDATE @extschema@.gate_tokens t
           SET full_at = now() + after.per / after.rate * least(after.burst,
                   extract(epoch FROM t.full_at - now()) * before.rate / extract(epoch FROM before.per))
         WHERE t.full_at > now() AND t.kind = set_limit.kind
           AND (t.name = gate_name OR gate_name = '*' AND NOT EXISTS (
               SELECT FROM @extschema@.gates g
                WHERE g.kind = t.kind AND g.name = t.name AND (g.max_running IS NOT NULL OR g.rate IS NOT NULL)));
    END IF;

    woken := @internal@.wake_workers(EXISTS (SELECT FROM @extschema@.settings));
EXCEPTION WHEN lock_not_available THEN
    -- That of lock_limits says what it waited for.
    GET STACKED DIAGNOSTICS help = PG_EXCEPTION_HINT;
    IF help <> '' THEN
        RAISE;
    END IF;
    PERFORM @internal@.refuse_held_gate(kind, name);
END
$$;

COMMENT ON FUNCTION @extschema@.set_limit(text, text, int, int, interval, int) IS
    'Limits how many jobs of a task, queue, tenant or host run at once, and how many start per interval. '
    'NULL lifts a limit; '
    'the name * is for each one that has no row of its own. A queue runs one job at a time unless set otherwise.';

CREATE OR REPLACE FUNCTION @extschema@.set_fair(kind text, "on" boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    woken boolean;
BEGIN
    IF kind IS DISTINCT FROM 'tenant' THEN
        RAISE EXCEPTION 'kind is %', coalesce(quote_literal(kind), 'NULL') USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give tenant: fairness is among tenants. A task or a queue can have a limit (set_limit).';
    ELSIF "on" IS NULL THEN
        RAISE EXCEPTION 'on is NULL' USING ERRCODE = 'invalid_parameter_value', HINT = 'Give true or false.';
    ELSIF "on" THEN
        INSERT INTO @extschema@.gates AS g (kind, name, fair) VALUES ('tenant', '*', true)
        ON CONFLICT ON CONSTRAINT gates_pkey DO UPDATE SET fair = true;
    ELSE
        UPDATE @extschema@.gates g SET fair = NULL WHERE g.kind = 'tenant' AND g.name = '*' AND g.fair;
        DELETE FROM @extschema@.gates g WHERE NOT @gate_says(g)@;
        DELETE FROM @extschema@.gate_usage_log;
        DELETE FROM @extschema@.gate_usage;
    END IF;
    woken := @internal@.wake_workers(EXISTS (SELECT FROM @extschema@.settings));
END
$$;

COMMENT ON FUNCTION @extschema@.set_fair(text, boolean) IS
    'Whether tenants are served fairly: of those whose jobs wait, the one whose jobs have run for the least time, by '
    'its weight, has the next turn. Jobs without a tenant count as one more.';

CREATE OR REPLACE FUNCTION @extschema@.set_weight(kind text, name text, weight numeric) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gate_name text;
BEGIN
    IF kind IS DISTINCT FROM 'tenant' THEN
        RAISE EXCEPTION 'kind is %', coalesce(quote_literal(kind), 'NULL') USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give tenant: only tenants have a weight.';
    ELSIF weight NOT BETWEEN 0.001 AND 1000000 THEN
        RAISE EXCEPTION 'weight is %', weight USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give 0.001 to 1000000, or NULL for the usual one, which is 1.';
    END IF;
    gate_name := @internal@.gate_name(kind, name);
    INSERT INTO @extschema@.gates AS g (kind, name, weight) VALUES (set_weight.kind, gate_name, set_weight.weight)
    ON CONFLICT ON CONSTRAINT gates_pkey DO UPDATE SET weight = excluded.weight;
    DELETE FROM @extschema@.gates g WHERE NOT @gate_says(g)@;
END
$$;

COMMENT ON FUNCTION @extschema@.set_weight(text, text, numeric) IS
    'The share of a tenant while tenants are served fairly (set_fair): with weight 3 it gets three times the run time '
    'of one with 1, the usual weight. NULL is the usual one; the name * is for each tenant that has none of its own.';
