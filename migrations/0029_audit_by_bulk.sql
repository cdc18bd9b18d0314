-- no-transaction
CREATE INDEX CONCURRENTLY operator_audit_by_bulk ON operator_audit ((after ->> 'bulk'), seq) WHERE after ->> 'bulk' IS NOT NULL;
