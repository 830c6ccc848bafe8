-- key_of(job): what gate_key says of a job that is due, by what a claim knows of gates already.
nullif(concat_ws(' ',
    CASE WHEN @has_tenant_gate($1)@ THEN 'tenant' || quote_literal(coalesce($1.database_id::text, '')) END,
    CASE WHEN @has_task_gate($1)@ THEN 'task' || quote_literal($1.task_identifier) END,
    'queue' || quote_literal($1.queue_name)), '')
