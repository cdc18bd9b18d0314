-- Attempts that ended because Postgres went away under them. The rows that are there were held to the old list, which is part
-- of this one: 0044 looks at them without keeping anybody from writing.
ALTER TABLE job_attempts DROP CONSTRAINT job_attempts_outcome_known;
ALTER TABLE job_attempts ADD CONSTRAINT job_attempts_outcome_known CHECK (outcome IN (
    'succeeded', 'retry', 'interrupted', 'snoozed', 'failed', 'lost', 'cancelled', 'handed_back')) NOT VALID;
