-- has_tenant_gate(job): whether a job has the gate of its tenant. tenant_gates: which tenants have one: fair (each, and
-- the jobs without one as well), all, some, none.
(tenant_gates = 'fair' OR $1.database_id IS NOT NULL AND (tenant_gates = 'all' OR tenant_gates = 'some' AND EXISTS (
    SELECT FROM @extschema@.gates t WHERE t.kind = 'tenant' AND t.name = $1.database_id::text AND @gate_asks(t)@)))
