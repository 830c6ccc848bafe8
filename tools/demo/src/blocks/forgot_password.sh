psql -U postgres -d constructive -c "
    SELECT set_config('jwt.claims.database_id', '$DBID', true);
    SELECT app_jobs.add_job(
      'email:send_verification_link',
      json_build_object(
        'email_type',   'forgot_password',
        'email',        '[email protected]',
        'user_id',      '$SENDER_ID',
        'reset_token',  'reset-token-123'
      )::json
    );
  "
