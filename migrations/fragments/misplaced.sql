-- misplaced(job): whether a job that stands in the common order does not belong there.
($1.queue_name IS NOT NULL OR $1.run_at > clock_timestamp()
 OR ruled AND (@has_task_gate($1)@ OR @has_tenant_gate($1)@))
