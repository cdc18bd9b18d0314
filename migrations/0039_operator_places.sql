-- From where operators have signed in within 30 days: a hash of account and network together. There the bound on tries at the
-- account as a whole does not count, so that nobody else's tries keep an operator out.
CREATE TABLE operator_places (
    place   bytea       PRIMARY KEY,
    seen_at timestamptz NOT NULL
);
CREATE INDEX operator_places_seen_at ON operator_places (seen_at);
