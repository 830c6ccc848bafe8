-- snapshot_is_old(written): whether what a gate lets start may have changed unseen. Above READ COMMITTED a later
-- statement sees no more than the first. What has been committed since is not missed when the first id drawn under the
-- gate's lock is the next one after the snapshot, in which nobody was writing. written: whether there was an id before.
(current_setting('transaction_isolation') <> 'read committed'
 AND ($1 OR pg_current_xact_id_if_assigned() IS NOT NULL
      OR pg_current_xact_id() <> pg_snapshot_xmax(pg_current_snapshot())
      OR EXISTS (SELECT FROM pg_snapshot_xip(pg_current_snapshot()))))
