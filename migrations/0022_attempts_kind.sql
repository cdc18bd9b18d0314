-- The kind of each attempt, for its durations. Null: of before this column, or of a worker that does not know it yet. The
-- durations are of the last hour, so nothing is filled in.
ALTER TABLE job_attempts ADD COLUMN job_kind text;
