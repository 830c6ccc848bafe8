-- has_task_gate(job): whether a job has the gate of its task: the task has one, or the host that its jobs are sent to.
-- task_gates: which tasks have one of their own: all, some, none. hosts_ruled: whether any host has one.
(task_gates = 'all' OR task_gates = 'some' AND EXISTS (
     SELECT FROM @extschema@.gates t WHERE t.kind = 'task' AND t.name = $1.task_identifier)
 OR hosts_ruled AND EXISTS (
     SELECT FROM @extschema@.task_hosts t
      WHERE t.task = $1.task_identifier AND EXISTS (
            SELECT FROM @extschema@.gates h WHERE h.kind = 'host' AND h.name IN (t.host, '*'))))
