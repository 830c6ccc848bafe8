-- within_tasks(task): whether the task is among task_identifiers (NULL: any).
(task_identifiers IS NULL OR $1 = ANY (task_identifiers))
