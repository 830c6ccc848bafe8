-- takes(task): whether the caller takes the task, which is among task_identifiers (NULL: any) and not among
-- excluded_tasks (NULL: none).
@within_tasks($1)@ AND (excluded_tasks IS NULL OR $1 <> ALL (excluded_tasks))
