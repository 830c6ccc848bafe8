-- gate_lock('kind', name): the advisory lock of a gate.
hashtextextended(concat_ws(':', '@extschema@.gate', $1), 0::bigint)
