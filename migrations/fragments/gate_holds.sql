-- gate_holds(gate): whether a row of gates holds jobs back: by a limit, a pause that is not over or a closed host.
($1.max_running IS NOT NULL OR $1.rate IS NOT NULL
 OR $1.paused_at IS NOT NULL AND coalesce($1.paused_until > now(), true) OR coalesce($1.closed_until > now(), false)
 OR $1.probe_pause IS NOT NULL)
