-- The newest jobs of a kind and state. The planner takes the primary key for a way to walk them in order as well, and then
-- reads past every job of other kinds; by the bytes of the id there is one index only that has the order.
DROP INDEX jobs_by_kind;
CREATE INDEX jobs_by_kind ON jobs (kind, state, uuid_send(id) DESC);
