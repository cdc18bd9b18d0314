-- no-transaction
-- Jobs have an index of their own.
CREATE INDEX CONCURRENTLY operator_audit_by_target ON operator_audit (target, seq) WHERE job_id IS NULL;
