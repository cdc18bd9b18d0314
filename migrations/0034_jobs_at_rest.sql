-- no-transaction
-- Jobs by kind and state, the oldest first: for the lists and counts of operators, and for claims within limits. Running jobs
-- are left out; `jobs_leased` has them. Each job is written one time less so, and a claim by id, which reads no state that
-- an index knows, cannot be planned as a walk through all jobs of its kinds. Bytes in ascending order, so that a page that is
-- full is split where it grows and not in halves.
CREATE INDEX CONCURRENTLY jobs_at_rest ON jobs (kind, state, uuid_send(id)) WHERE state <> 'running';
