-- gate_asks(gate): whether jobs have to pass the gate of a row of gates, which one with a weight alone does not ask.
($1.weight IS NULL OR coalesce($1.fair, false) OR $1.max_running IS NOT NULL OR $1.rate IS NOT NULL
 OR $1.paused_at IS NOT NULL OR $1.closed_until IS NOT NULL)
