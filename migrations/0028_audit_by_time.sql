-- no-transaction
CREATE INDEX CONCURRENTLY operator_audit_by_time ON operator_audit (at) WHERE after ->> 'bulk' IS NULL;
