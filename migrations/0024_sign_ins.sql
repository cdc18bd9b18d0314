-- How often somebody tried to sign in at the dashboard lately, by account and by address. Here and not in Redis, as the
-- sessions are: without Redis the passwords of operators are guessed no faster.
CREATE TABLE operator_sign_ins (
    subject  bytea       PRIMARY KEY, -- a hash: addresses are personal
    began_at timestamptz NOT NULL,
    tries    int         NOT NULL
);
CREATE INDEX operator_sign_ins_began_at ON operator_sign_ins (began_at);
