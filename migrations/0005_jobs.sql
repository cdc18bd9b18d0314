-- The truth about every job. Redis only carries ids to the workers.
CREATE TABLE jobs (
    id               uuid        PRIMARY KEY,
    kind             text        NOT NULL,
    queue            text        NOT NULL,
    priority         smallint    NOT NULL, -- lower runs first
    args             jsonb       NOT NULL, -- ids only, no personal data
    dedupe_key       text,
    state            text        NOT NULL CONSTRAINT jobs_state_known CHECK (state IN (
                         'scheduled', 'queued', 'running', 'retrying', 'succeeded', 'dead', 'cancelled', 'quarantined')),
    run_at           timestamptz NOT NULL,
    attempt          int         NOT NULL DEFAULT 0,
    max_attempts     int         NOT NULL,
    crash_count      int         NOT NULL DEFAULT 0,
    -- Counts claims. Every write of a running job names the fence it was claimed with.
    fence            bigint      NOT NULL DEFAULT 0,
    lease_owner      text,
    lease_until      timestamptz,
    -- When the id was last handed to Redis; null: not there, the relay has to publish it.
    published_at     timestamptz,
    progress         smallint,
    cancel_requested boolean     NOT NULL DEFAULT false,
    trace_context    text,       -- W3C traceparent of the request that enqueued it
    actor            text,
    last_error       text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    finished_at      timestamptz
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
CREATE UNIQUE INDEX jobs_dedupe ON jobs (dedupe_key)
    WHERE dedupe_key IS NOT NULL AND state IN ('scheduled', 'queued', 'running', 'retrying');
-- What the relay looks for: jobs whose time comes,
CREATE INDEX jobs_waiting ON jobs (run_at) WHERE state IN ('scheduled', 'retrying');
-- due jobs that are not in Redis, the most urgent of each queue first,
CREATE INDEX jobs_unpublished ON jobs (queue, priority, run_at) WHERE state = 'queued' AND published_at IS NULL;
-- and due jobs that were lost with Redis.
CREATE INDEX jobs_published ON jobs (queue, published_at) WHERE state = 'queued' AND published_at IS NOT NULL;
CREATE INDEX jobs_leased ON jobs (lease_until) WHERE state = 'running';
-- What pruning deletes.
CREATE INDEX jobs_finished ON jobs (finished_at) WHERE state IN ('succeeded', 'cancelled');
CREATE INDEX jobs_dead ON jobs (finished_at) WHERE state IN ('dead', 'quarantined');

-- One row per ended attempt. Append-only.
CREATE TABLE job_attempts (
    job_id     uuid        NOT NULL CONSTRAINT job_attempts_job REFERENCES jobs (id) ON DELETE CASCADE,
    fence      bigint      NOT NULL,
    attempt    int         NOT NULL,
    worker     text        NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at   timestamptz NOT NULL,
    outcome    text        NOT NULL CONSTRAINT job_attempts_outcome_known CHECK (outcome IN (
                   'succeeded', 'retry', 'snoozed', 'failed', 'lost', 'cancelled', 'handed_back')),
    error      text,
    CONSTRAINT job_attempts_pkey PRIMARY KEY (job_id, fence)
);

-- What jobs did to the world, each at most once by its key.
CREATE TABLE effects (
    key           text        PRIMARY KEY,
    job_id        uuid        NOT NULL,
    fence         bigint      NOT NULL,
    -- The payment, booking or user it belongs to.
    entity_id     uuid,
    state         text        NOT NULL CONSTRAINT effects_state_known CHECK (state IN ('intent', 'done', 'unknown', 'failed')),
    external_id   text,
    -- How many keys of the series were used up by failures at the other side that say nothing of the outcome.
    generation    int         NOT NULL DEFAULT 0,
    response      jsonb,
    error         text,
    first_sent_at timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL
);
CREATE INDEX effects_by_entity ON effects (entity_id, first_sent_at) WHERE entity_id IS NOT NULL;
CREATE INDEX effects_by_job ON effects (job_id);
CREATE INDEX effects_unknown ON effects (updated_at) WHERE state = 'unknown';
CREATE INDEX effects_mails ON effects (updated_at) WHERE key LIKE 'mail:%';

-- Operators' switches, read by every worker.
CREATE TABLE queues (
    name   text    PRIMARY KEY,
    paused boolean NOT NULL DEFAULT false
);
INSERT INTO queues (name) VALUES ('confirmation'), ('payments'), ('notifications'), ('cache'), ('maintenance');

-- The cron table: whoever moves next_tick on enqueues the job, so a tick fires once whatever the number of workers.
CREATE TABLE cron_schedules (
    name       text        PRIMARY KEY,
    expression text        NOT NULL,
    next_tick  timestamptz NOT NULL,
    last_tick  timestamptz
);
