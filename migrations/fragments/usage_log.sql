-- usage_log(columns): what has not been added up: since, and by transactions that were open then.
SELECT $1 FROM @extschema@.gate_usage_log l WHERE l.xid >= upto
UNION ALL
SELECT $1 FROM @extschema@.gate_usage_log l WHERE l.xid = ANY (unended) AND l.xid < upto
