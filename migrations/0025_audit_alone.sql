-- no-transaction
-- What the audit log is searched by: this index and the five of the next migrations, each built while entries go on being written.
-- An action on many jobs writes an entry for each of them; those are told under their action and are in none of the
-- indexes of what is told by itself.
CREATE INDEX CONCURRENTLY operator_audit_alone ON operator_audit (seq) WHERE after ->> 'bulk' IS NULL;
