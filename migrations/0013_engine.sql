-- A wish that came while the job of its key was running: that run may have read what was there before, so it runs again.
ALTER TABLE jobs ADD COLUMN rerun boolean NOT NULL DEFAULT false;

-- Jobs that were running when a worker died. They run one at a time in a process until one of them is found out.
CREATE INDEX jobs_suspected ON jobs (queue, run_at) WHERE state = 'queued' AND crash_count > 0;

-- One row per worker process, renewed every second while it lives. Times are Postgres' own.
CREATE TABLE IF NOT EXISTS workers (
    name        text        PRIMARY KEY, -- the lease_owner of what it runs
    host        text        NOT NULL,
    version     text        NOT NULL,
    queues      text[]      NOT NULL,
    concurrency int         NOT NULL,
    started_at  timestamptz NOT NULL,
    seen_at     timestamptz NOT NULL,
    stopped_at  timestamptz
);
ALTER TABLE workers
    ADD COLUMN kinds   text[]  NOT NULL DEFAULT '{}', -- the kinds of jobs that its build knows
    ADD COLUMN running int     NOT NULL DEFAULT 0,
    -- Operators' wishes: take nothing new; end.
    ADD COLUMN quiet   boolean NOT NULL DEFAULT false,
    ADD COLUMN stop    boolean NOT NULL DEFAULT false;
CREATE INDEX IF NOT EXISTS workers_seen_at ON workers (seen_at);
