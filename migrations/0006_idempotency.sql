-- Replies of POSTs by Idempotency-Key, written in the transaction that did the work.
CREATE TABLE idempotency_keys (
    scope        text        NOT NULL, -- the user's id, or 'anonymous'
    key          text        NOT NULL,
    request_hash bytea       NOT NULL, -- of method, path and body
    status       smallint,
    body         bytea,
    location     text,
    created_at   timestamptz NOT NULL,
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_keys_created_at ON idempotency_keys (created_at);
