-- What operators want of a schedule, which workers heed at their next look.
ALTER TABLE cron_schedules
    ADD COLUMN paused     boolean NOT NULL DEFAULT false,
    -- In place of the expression that the program has; null: that one.
    ADD COLUMN changed_to text,
    -- Null while it is paused, unless an operator wants one run.
    ALTER COLUMN next_tick DROP NOT NULL;
