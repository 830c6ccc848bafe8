-- misplaced(job): whether a job that stands in the common order does not belong there.
($1.queue_name IS NOT NULL OR $1.run_at > clock_timestamp()
 OR ruled AND (ARRAY[$1.task_identifier, '*'] && set_tasks
               OR $1.database_id IS NOT NULL AND ARRAY[$1.database_id::text, '*'] && set_tenants))
