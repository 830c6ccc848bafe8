-- mean_time(row): what a job takes, by the mean that was known and the jobs that have ended since (seconds, ended).
-- Where there were none, by what others' jobs take.
greatest(CASE WHEN $1.mean IS NULL AND $1.ended > 0 THEN $1.seconds / $1.ended::float8
              ELSE (20 * coalesce($1.mean, $1.others, 1) + coalesce($1.seconds, 0))
                   / (20 + coalesce($1.ended, 0))::float8 END, 0.0001)
