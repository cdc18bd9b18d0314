-- The newest attempts of each kind, for its durations: among all attempts, those of a kind that runs seldom lie behind any
-- number of others. Null: of before this column, or of a worker that does not know it yet. The durations are of the last
-- hour, so nothing is filled in.
ALTER TABLE job_attempts ADD COLUMN job_kind text;
CREATE INDEX job_attempts_by_kind ON job_attempts (job_kind, ended_at);
