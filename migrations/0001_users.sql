-- People. Both guests and hosts; the role says what the account was made for, both may book.
CREATE TABLE users (
    id                uuid        PRIMARY KEY,
    email             text        NOT NULL,
    password_hash     text        NOT NULL,
    full_name         text        NOT NULL,
    role              text        NOT NULL CONSTRAINT users_role_known CHECK (role IN ('guest', 'host')),
    locale            text        NOT NULL DEFAULT 'en',
    email_verified_at timestamptz,
    created_at        timestamptz NOT NULL,
    updated_at        timestamptz NOT NULL,
    -- A deleted account keeps its row, because bookings and the ledger refer to it, but nothing personal.
    deleted_at        timestamptz,
    CONSTRAINT users_email_lowercase CHECK (email = lower(email))
);
CREATE UNIQUE INDEX users_email_unique ON users (email) WHERE deleted_at IS NULL;

-- The mail carries the token, the database only its hash.
CREATE TABLE email_verifications (
    token_hash bytea       PRIMARY KEY,
    user_id    uuid        NOT NULL CONSTRAINT email_verifications_user REFERENCES users (id),
    email      text        NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at    timestamptz
);
CREATE INDEX email_verifications_user_id ON email_verifications (user_id);
CREATE INDEX email_verifications_expires_at ON email_verifications (expires_at);
