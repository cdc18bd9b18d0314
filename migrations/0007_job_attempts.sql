-- Checking that the job of each attempt exists cost as much as writing the attempt. The statements that end an attempt write
-- both at once, and pruning deletes both at once.
ALTER TABLE job_attempts DROP CONSTRAINT job_attempts_job;

COMMENT ON COLUMN jobs.lease_owner IS 'Who has it, or had it last';
