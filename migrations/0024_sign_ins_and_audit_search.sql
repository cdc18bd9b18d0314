-- How often somebody tried to sign in at the dashboard lately, by account and by address. Here and not in Redis, as the
-- sessions are: without Redis the passwords of operators are guessed no faster.
CREATE TABLE operator_sign_ins (
    subject  bytea       PRIMARY KEY, -- a hash: addresses are personal
    began_at timestamptz NOT NULL,
    tries    int         NOT NULL
);
CREATE INDEX operator_sign_ins_began_at ON operator_sign_ins (began_at);

-- What the audit log is searched by. An action on many jobs writes an entry for each of them; those are told under their
-- action and are in none of the indexes of what is told by itself.
CREATE INDEX operator_audit_alone ON operator_audit (seq) WHERE after ->> 'bulk' IS NULL;
CREATE INDEX operator_audit_by_actor ON operator_audit (actor, seq) WHERE after ->> 'bulk' IS NULL;
CREATE INDEX operator_audit_by_action ON operator_audit (action, seq) WHERE after ->> 'bulk' IS NULL;
CREATE INDEX operator_audit_by_time ON operator_audit (at) WHERE after ->> 'bulk' IS NULL;
CREATE INDEX operator_audit_by_bulk ON operator_audit ((after ->> 'bulk'), seq) WHERE after ->> 'bulk' IS NOT NULL;
-- Jobs have an index of their own.
CREATE INDEX operator_audit_by_target ON operator_audit (target, seq) WHERE job_id IS NULL;
