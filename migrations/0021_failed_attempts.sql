-- The newest attempts that failed, of whichever kind: few among all that end, and looked for every two seconds while
-- somebody watches the overview.
CREATE INDEX job_attempts_failed ON job_attempts (ended_at) WHERE outcome IN ('retry', 'failed', 'lost');
