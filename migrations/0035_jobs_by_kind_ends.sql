-- no-transaction
-- `jobs_at_rest` has taken its place.
DROP INDEX CONCURRENTLY IF EXISTS jobs_by_kind;
