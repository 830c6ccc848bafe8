-- gate_holds(gate): whether a row of gates holds jobs back: by a limit, a pause that is not over or a closed host.
($1.max_running IS NOT NULL OR $1.rate IS NOT NULL
 OR @gate_stops($1)@ OR $1.probe_pause IS NOT NULL)
