-- passes(job): whether the job has to pass the gate gate_kind gate_name of a task, a tenant or a host.
CASE gate_kind WHEN 'task' THEN $1.task_identifier = gate_name
               WHEN 'host' THEN EXISTS (SELECT FROM @extschema@.task_hosts t
                                         WHERE t.task = $1.task_identifier AND t.host = gate_name)
               ELSE $1.database_id = gate_name::uuid END
