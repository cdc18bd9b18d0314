-- no-transaction
-- `jobs_by_breach` has taken its place.
DROP INDEX CONCURRENTLY IF EXISTS jobs_unpublished;
