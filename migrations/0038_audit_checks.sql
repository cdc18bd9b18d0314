-- How far the job `audit.verify` has come, and what it found. One row.
CREATE TABLE operator_audit_checks (
    single      boolean     PRIMARY KEY DEFAULT true CONSTRAINT operator_audit_checks_single CHECK (single),
    -- The last look, and the first entry that was not as it was written then.
    checked_at  timestamptz,
    broken_seq  bigint,
    -- Up to here the log was found whole. The seal is an HMAC over both under a key that is not in this database: whoever
    -- changes an entry up to here and computes the hashes after it again cannot make the seal that would go with them.
    sealed_seq  bigint      NOT NULL DEFAULT 0,
    sealed_hash bytea       NOT NULL DEFAULT '\x00',
    seal        bytea,
    -- What is sealed is computed again from its beginning, over and over: how far this round is, and the end of the last.
    round_seq   bigint      NOT NULL DEFAULT 0,
    round_hash  bytea       NOT NULL DEFAULT '\x00',
    whole_at    timestamptz
);
INSERT INTO operator_audit_checks DEFAULT VALUES;

-- The end of the chain is moved on by what appends to it, and by nothing else.
CREATE FUNCTION operator_audit_head_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND pg_trigger_depth() > 1 THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the end of the audit log is moved on by its entries only'
        USING ERRCODE = 'check_violation', CONSTRAINT = 'operator_audit_head_immutable';
END $$;
CREATE TRIGGER operator_audit_head_immutable BEFORE INSERT OR UPDATE OR DELETE ON operator_audit_head
    FOR EACH ROW EXECUTE FUNCTION operator_audit_head_refuse_change();
CREATE TRIGGER operator_audit_head_not_truncated BEFORE TRUNCATE ON operator_audit_head
    FOR EACH STATEMENT EXECUTE FUNCTION operator_audit_head_refuse_change();
