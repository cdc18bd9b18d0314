-- What operators asked Stripe about an effect, and what it answered: one row an effect, the newest question.
CREATE TABLE effect_inspections (
    effect_key        text        CONSTRAINT effect_inspections_pkey PRIMARY KEY
                                  CONSTRAINT effect_inspections_effect REFERENCES effects (key) ON DELETE CASCADE,
    asked_at          timestamptz NOT NULL,
    asked_by          text        NOT NULL, -- as the audit log names them
    -- Null while nobody has answered.
    answered_at       timestamptz,
    -- The object as it is at Stripe: status, amounts; null if it could not be read,
    facts             jsonb,
    -- and then why.
    error             text,
    -- The effect's last change before Stripe was asked: the answer holds while there is no other.
    effect_updated_at timestamptz,
    CONSTRAINT effect_inspections_answer CHECK (
        num_nonnulls(facts, error) = num_nonnulls(answered_at) AND num_nonnulls(effect_updated_at) = num_nonnulls(answered_at))
);
