-- unlocked(): what an UPDATE sets of a job whose claim ends.
locked_by = NULL, locked_at = NULL, epoch = NULL, instance = NULL, accepted = false, deadline = NULL,
updated_at = clock_timestamp()
