-- no-transaction
CREATE INDEX CONCURRENTLY operator_audit_by_action ON operator_audit (action, seq) WHERE after ->> 'bulk' IS NULL;
