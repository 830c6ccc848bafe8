-- not_refused(job): whether a claim may take the job. refused: those that cannot be claimed, NULL as a rule.
(refused IS NULL OR $1.id <> ALL (refused))
