-- Whoever works at the job dashboard. Apart from users: a guest or host is never an operator.
CREATE TABLE operators (
    id             uuid        PRIMARY KEY,
    email          text        NOT NULL CONSTRAINT operators_email_unique UNIQUE,
    role           text        NOT NULL CONSTRAINT operators_role_known CHECK (role IN ('viewer', 'operator', 'admin')),
    password_hash  text        NOT NULL,
    -- Base32; asked for at sign-in once it is confirmed.
    totp_secret    text,
    totp_confirmed boolean     NOT NULL DEFAULT false,
    -- The last time step that was used: a code is good once.
    totp_step      bigint      NOT NULL DEFAULT 0,
    created_at     timestamptz NOT NULL,
    disabled_at    timestamptz,
    CONSTRAINT operators_email_lowercase CHECK (email = lower(email))
);

-- Sessions are here and not in Redis: the dashboard is needed most when Redis is down.
CREATE TABLE operator_sessions (
    token_hash   bytea       PRIMARY KEY,
    operator_id  uuid        NOT NULL CONSTRAINT operator_sessions_operator REFERENCES operators (id) ON DELETE CASCADE,
    csrf         text        NOT NULL,
    created_at   timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL
);
CREATE INDEX operator_sessions_operator_id ON operator_sessions (operator_id);
CREATE INDEX operator_sessions_last_seen_at ON operator_sessions (last_seen_at);

-- What operators did. Append-only; each entry's hash covers the entry and the hash before it.
CREATE TABLE operator_audit (
    seq       bigint      PRIMARY KEY,
    at        timestamptz NOT NULL,
    actor     text        NOT NULL, -- the operator's e-mail address, or cli:<user>
    action    text        NOT NULL, -- job.retry, queue.pause, operator.sign_in …
    target    text        NOT NULL, -- the job's id, the queue's name …
    job_id    uuid,
    before    jsonb,
    after     jsonb,
    reason    text,
    prev_hash bytea       NOT NULL,
    hash      bytea       NOT NULL
);
CREATE INDEX operator_audit_by_job ON operator_audit (job_id, seq) WHERE job_id IS NOT NULL;

-- The end of the chain. Locked by whoever appends, so entries have an order; it also tells when the last ones are gone.
CREATE TABLE operator_audit_head (
    single boolean PRIMARY KEY DEFAULT true CONSTRAINT operator_audit_head_single CHECK (single),
    seq    bigint  NOT NULL,
    hash   bytea   NOT NULL
);
INSERT INTO operator_audit_head (seq, hash) VALUES (0, '\x00');

CREATE FUNCTION operator_audit_hash(entry operator_audit) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256(entry.prev_hash || convert_to(jsonb_build_array(
        entry.seq, (extract(epoch FROM entry.at) * 1000000)::bigint, entry.actor, entry.action, entry.target, entry.job_id,
        entry.before, entry.after, entry.reason)::text, 'UTF8'))
$$;
CREATE FUNCTION operator_audit_append() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE operator_audit_head SET seq = seq + 1 RETURNING seq, hash INTO NEW.seq, NEW.prev_hash;
    NEW.hash := operator_audit_hash(NEW);
    UPDATE operator_audit_head SET hash = NEW.hash;
    RETURN NEW;
END $$;
CREATE TRIGGER operator_audit_chained BEFORE INSERT ON operator_audit FOR EACH ROW EXECUTE FUNCTION operator_audit_append();
CREATE FUNCTION operator_audit_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'check_violation', CONSTRAINT = 'operator_audit_immutable';
END $$;
CREATE TRIGGER operator_audit_immutable BEFORE UPDATE OR DELETE ON operator_audit FOR EACH ROW EXECUTE FUNCTION operator_audit_refuse_change();
CREATE TRIGGER operator_audit_not_truncated BEFORE TRUNCATE ON operator_audit FOR EACH STATEMENT EXECUTE FUNCTION operator_audit_refuse_change();

-- Actions on all jobs that match a filter, worked off by a job in batches; the cursor says how far it came.
CREATE TABLE bulk_actions (
    id          uuid        PRIMARY KEY,
    action      text        NOT NULL CONSTRAINT bulk_actions_action_known CHECK (action IN ('retry', 'cancel', 'delete')),
    filter      jsonb       NOT NULL,
    actor       text        NOT NULL,
    reason      text,
    -- Jobs made later than the action do not take part.
    cursor      uuid        NOT NULL,
    expected    bigint      NOT NULL,
    done        bigint      NOT NULL DEFAULT 0,
    refused     bigint      NOT NULL DEFAULT 0,
    state       text        NOT NULL DEFAULT 'running' CONSTRAINT bulk_actions_state_known CHECK (state IN ('running', 'finished', 'stopped')),
    created_at  timestamptz NOT NULL,
    finished_at timestamptz
);

-- One row per worker process, renewed while it lives.
CREATE TABLE workers (
    name        text        PRIMARY KEY, -- the lease_owner of what it runs
    host        text        NOT NULL,
    version     text        NOT NULL,
    queues      text[]      NOT NULL,
    concurrency int         NOT NULL,
    started_at  timestamptz NOT NULL,
    seen_at     timestamptz NOT NULL,
    stopped_at  timestamptz
);
CREATE INDEX workers_seen_at ON workers (seen_at);

-- The job list. Ids are made in the order of time, so they sort and page it; one index serves every combination of kind,
-- queue (a set of kinds) and state.
CREATE INDEX jobs_by_kind ON jobs (kind, state, id DESC);
-- Jobs about a booking, a payment, a user.
CREATE INDEX jobs_by_args ON jobs USING gin (args jsonb_path_ops);
-- Text of errors, and jobs that needed more than one attempt.
CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE INDEX jobs_by_error ON jobs USING gin (last_error gin_trgm_ops) WHERE last_error IS NOT NULL;
CREATE INDEX jobs_retried ON jobs (id DESC) WHERE attempt > 1;
-- What a worker runs now.
CREATE INDEX jobs_by_owner ON jobs (lease_owner) WHERE state = 'running';
-- Throughput and failures over time.
CREATE INDEX job_attempts_by_end ON job_attempts (ended_at) INCLUDE (outcome);
-- The flight recorder of a booking.
CREATE INDEX stripe_events_by_object ON stripe_events (object_id, created_at);
