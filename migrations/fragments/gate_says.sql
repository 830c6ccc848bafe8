-- gate_says(gate): whether a row of gates says anything: what holds jobs back, a weight or fairness. Another one is as
-- if it were not there.
(@gate_holds($1)@ OR $1.weight IS NOT NULL OR coalesce($1.fair, false))
