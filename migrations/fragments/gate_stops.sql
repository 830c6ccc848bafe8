-- gate_stops(gate): whether a row of gates lets nothing start now: it is paused, or its host is closed.
($1.paused_at IS NOT NULL AND coalesce($1.paused_until > now(), true) OR coalesce($1.closed_until > now(), false))
