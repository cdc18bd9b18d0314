-- What operators set per queue and per kind. Null: no limit. Limits hold across all workers.
ALTER TABLE queues
    -- So many jobs run at the same time.
    ADD COLUMN concurrency    int         CONSTRAINT queues_concurrency_positive CHECK (concurrency > 0),
    -- So many jobs begin in any span of so many seconds.
    ADD COLUMN rate_limit     int         CONSTRAINT queues_rate_limit_positive CHECK (rate_limit > 0),
    ADD COLUMN rate_seconds   int         NOT NULL DEFAULT 1 CONSTRAINT queues_rate_seconds_known CHECK (rate_seconds BETWEEN 1 AND 86400),
    -- Up to when the rate is spent. Moved by the claims, under the lock of this row.
    ADD COLUMN rate_spent     timestamptz,
    -- A due job should begin within so many seconds. While a queue comes near that, those of less weight get fewer slots.
    ADD COLUMN target_seconds int         NOT NULL DEFAULT 60 CONSTRAINT queues_target_seconds_known CHECK (target_seconds BETWEEN 1 AND 604800),
    ADD COLUMN weight         int         NOT NULL DEFAULT 1 CONSTRAINT queues_weight_known CHECK (weight BETWEEN 1 AND 100),
    -- Since when the longest waiting job is due, as the leading worker saw it last; null: none is.
    ADD COLUMN oldest_due_at  timestamptz;
UPDATE queues SET target_seconds = known.target, weight = known.weight
FROM (VALUES ('confirmation', 5, 10), ('payments', 10, 10), ('notifications', 60, 5), ('cache', 300, 1), ('maintenance', 900, 1))
     AS known (name, target, weight)
WHERE queues.name = known.name;

-- Kinds that have a limit of their own.
CREATE TABLE kinds (
    name         text        PRIMARY KEY,
    queue        text        NOT NULL CONSTRAINT kinds_queue REFERENCES queues (name),
    concurrency  int         CONSTRAINT kinds_concurrency_positive CHECK (concurrency > 0),
    rate_limit   int         CONSTRAINT kinds_rate_limit_positive CHECK (rate_limit > 0),
    rate_seconds int         NOT NULL DEFAULT 1 CONSTRAINT kinds_rate_seconds_known CHECK (rate_seconds BETWEEN 1 AND 86400),
    rate_spent   timestamptz,
    CONSTRAINT kinds_limited CHECK (concurrency IS NOT NULL OR rate_limit IS NOT NULL)
);
CREATE INDEX kinds_queue ON kinds (queue);

-- How long jobs are kept with their attempts after their end.
CREATE TABLE job_retention (
    state        text PRIMARY KEY CONSTRAINT job_retention_state_known CHECK (state IN ('succeeded', 'cancelled', 'dead', 'quarantined')),
    keep_seconds int  NOT NULL CONSTRAINT job_retention_keep_seconds_known CHECK (keep_seconds BETWEEN 3600 AND 315360000)
);
INSERT INTO job_retention (state, keep_seconds)
VALUES ('succeeded', 7 * 86400), ('cancelled', 7 * 86400), ('dead', 180 * 86400), ('quarantined', 180 * 86400);
-- Few among those that succeeded, and pruned by an age of their own.
CREATE INDEX jobs_cancelled ON jobs (finished_at) WHERE state = 'cancelled';

-- Sets of jobs with one that is enqueued when all have ended, however they ended.
CREATE TABLE job_batches (
    id            uuid        PRIMARY KEY,
    total         int         NOT NULL DEFAULT 0,
    -- The job after the last.
    after_id      uuid        NOT NULL,
    kind          text        NOT NULL,
    queue         text        NOT NULL,
    priority      smallint    NOT NULL,
    max_attempts  int         NOT NULL,
    args          jsonb       NOT NULL,
    trace_context text,
    actor         text,
    parent_id     uuid, -- the job that began it
    created_at    timestamptz NOT NULL DEFAULT now(),
    -- When the last job had ended; how many of all had not succeeded by then.
    finished_at   timestamptz,
    failed        int
);
CREATE INDEX job_batches_open ON job_batches (id) WHERE finished_at IS NULL;
CREATE INDEX job_batches_after ON job_batches (after_id);
CREATE INDEX job_batches_finished ON job_batches (finished_at) WHERE finished_at IS NOT NULL;
ALTER TABLE jobs
    ADD COLUMN batch_id  uuid,
    -- The job that enqueued it.
    ADD COLUMN parent_id uuid;
CREATE INDEX jobs_by_batch ON jobs (batch_id, state) WHERE batch_id IS NOT NULL;
CREATE INDEX jobs_by_parent ON jobs (parent_id) WHERE parent_id IS NOT NULL;
