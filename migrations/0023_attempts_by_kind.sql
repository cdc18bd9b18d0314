-- no-transaction
-- The newest attempts of each kind: among all attempts, those of a kind that runs seldom lie behind any number of others. Built
-- while attempts go on being written.
CREATE INDEX CONCURRENTLY job_attempts_by_kind ON job_attempts (job_kind, ended_at);
