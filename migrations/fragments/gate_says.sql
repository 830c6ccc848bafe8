-- gate_says(gate): whether a row of gates says anything: a limit, a pause or a closed host. One whose pause is over,
-- and that has no limit, is as if it were not there.
($1.max_running IS NOT NULL OR $1.rate IS NOT NULL OR $1.weight IS NOT NULL
 OR $1.paused_at IS NOT NULL AND coalesce($1.paused_until > now(), true) OR coalesce($1.closed_until > now(), false)
 OR $1.probe_pause IS NOT NULL)
