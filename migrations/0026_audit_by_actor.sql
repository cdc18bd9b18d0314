-- no-transaction
CREATE INDEX CONCURRENTLY operator_audit_by_actor ON operator_audit (actor, seq) WHERE after ->> 'bulk' IS NULL;
