-- takes(task): whether the caller takes the task, which is among task_identifiers (NULL: any) and not among
-- excluded_tasks (NULL: none).
(task_identifiers IS NULL OR $1 = ANY (task_identifiers)) AND (excluded_tasks IS NULL OR $1 <> ALL (excluded_tasks))
