psql -U postgres -d constructive -c "
    SELECT set_config('jwt.claims.database_id', '$DBID', true);
    SELECT app_jobs.add_scheduled_job(
      identifier := 'email:send_verification_link',
      payload := json_build_object(
        'email_type',   'forgot_password',
        'email',        'someone@example.com',
        'user_id',      '$SENDER_ID',
        'reset_token',  'scheduled-token-123'
      ),
      schedule_info := json_build_object(
        'start', NOW(),
        'end',   NOW() + '4 seconds'::interval,
        'rule',  '* * * * * *'   -- every second
      )
    );
  "
