# Set JWT claims so add_job can read database_id and actor_id internally
psql -U postgres -d constructive -c "
    SELECT set_config('jwt.claims.database_id', '$DBID', true);
    SELECT set_config('jwt.claims.user_id', '$SENDER_ID', true);
    SELECT app_jobs.add_job(
      'email:send_verification_link',
      json_build_object(
        'email_type',   'invite_email',
        'email',        '[email protected]',
        'invite_token', 'invite-token-123',
        'sender_id',    '$SENDER_ID'
      )::json
    );
  "
