-- limits_lock(): the advisory lock that claims share, and that whoever sets a limit has alone.
hashtextextended('@extschema@.limits', 0::bigint)
