psql -U postgres -d constructive -c "
    SELECT set_config('jwt.claims.database_id', '$DBID', true);
    SELECT app_jobs.add_job(
      'email:send_verification_link',
      json_build_object(
        'email_type',   'email_verification',
        'email',        '[email protected]',
        'email_id',     '$(uuidgen)',
        'verification_token', 'verify-token-123'
      )::json
    );
  "
