-- gate_over(gate): whether the row of a host can go: it says nothing, or only that the host was down an hour ago.
(NOT @gate_says($1)@
 OR $1.max_running IS NULL AND $1.rate IS NULL AND NOT @gate_stops($1)@ AND $1.closed_until < now() - interval '1 hour')
