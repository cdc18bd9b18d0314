-- Operators look after their own account. A new authenticator waits beside the one in use until a code of it was typed;
-- one that was shown before this and never confirmed is made anew.
ALTER TABLE operators
    ADD COLUMN totp_pending    text,
    ADD COLUMN totp_pending_at timestamptz,
    ADD CONSTRAINT operators_totp_pending_dated CHECK ((totp_pending IS NULL) = (totp_pending_at IS NULL));
UPDATE operators SET totp_secret = NULL WHERE NOT totp_confirmed AND totp_secret IS NOT NULL;

-- What somebody tells their sessions apart by, and ends one by.
ALTER TABLE operator_sessions
    ADD COLUMN id         uuid NOT NULL DEFAULT gen_random_uuid() CONSTRAINT operator_sessions_id_unique UNIQUE,
    ADD COLUMN ip         text,
    ADD COLUMN user_agent text;
