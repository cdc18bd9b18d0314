-- One row per card that was tried for a booking.
CREATE TABLE payments (
    id                       uuid        PRIMARY KEY,
    booking_id               uuid        NOT NULL CONSTRAINT payments_booking REFERENCES bookings (id),
    guest_id                 uuid        NOT NULL CONSTRAINT payments_guest REFERENCES users (id),
    host_id                  uuid        NOT NULL CONSTRAINT payments_host REFERENCES users (id),
    number                   int         NOT NULL, -- 1 for the first card, 2 for the second …
    state                    text        NOT NULL CONSTRAINT payments_state_known CHECK (state IN (
                                 'pending', 'requires_action', 'authorized', 'captured', 'voided', 'failed')),
    currency                 text        NOT NULL,
    amount_minor             bigint      NOT NULL CONSTRAINT payments_amount_positive CHECK (amount_minor > 0),
    authorized_minor         bigint      NOT NULL DEFAULT 0,
    captured_minor           bigint      NOT NULL DEFAULT 0,
    refunded_minor           bigint      NOT NULL DEFAULT 0,
    payment_method           text        NOT NULL, -- a Stripe PaymentMethod id, never card data
    stripe_payment_intent_id text,
    -- Handed to the guest for 3-D Secure, erased once it is of no more use.
    client_secret            text,
    capture_before           timestamptz,
    failure_code             text,
    decline_code             text,
    failure_message          text,
    created_at               timestamptz NOT NULL,
    updated_at               timestamptz NOT NULL,
    CONSTRAINT payments_number_unique UNIQUE (booking_id, number),
    CONSTRAINT payments_intent_unique UNIQUE (stripe_payment_intent_id),
    CONSTRAINT payments_authorized_within_amount CHECK (authorized_minor BETWEEN 0 AND amount_minor),
    CONSTRAINT payments_captured_within_authorized CHECK (captured_minor BETWEEN 0 AND authorized_minor),
    CONSTRAINT payments_refunded_within_captured CHECK (refunded_minor BETWEEN 0 AND captured_minor)
);
-- Two cards are never in play for one booking at the same time.
CREATE UNIQUE INDEX payments_one_live ON payments (booking_id) WHERE state IN ('pending', 'requires_action', 'authorized', 'captured');
CREATE INDEX payments_by_guest ON payments (guest_id, id DESC);
CREATE INDEX payments_by_host ON payments (host_id, id DESC);

CREATE TABLE refunds (
    id               uuid        PRIMARY KEY,
    payment_id       uuid        NOT NULL CONSTRAINT refunds_payment REFERENCES payments (id),
    amount_minor     bigint      NOT NULL CONSTRAINT refunds_amount_positive CHECK (amount_minor > 0),
    reason           text        NOT NULL,
    state            text        NOT NULL CONSTRAINT refunds_state_known CHECK (state IN ('pending', 'succeeded', 'failed')),
    stripe_refund_id text        CONSTRAINT refunds_stripe_unique UNIQUE,
    created_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL
);
CREATE INDEX refunds_by_payment ON refunds (payment_id);

-- Double entry. A transaction's entries sum to zero per currency, checked at commit; nothing is ever changed.
CREATE TABLE ledger_transactions (
    id         uuid        PRIMARY KEY,
    key        text        NOT NULL CONSTRAINT ledger_transactions_key_unique UNIQUE, -- capture:{payment}, refund:{refund}
    booking_id uuid        NOT NULL CONSTRAINT ledger_transactions_booking REFERENCES bookings (id),
    created_at timestamptz NOT NULL
);
CREATE INDEX ledger_transactions_by_booking ON ledger_transactions (booking_id);
CREATE TABLE ledger_entries (
    transaction_id uuid   NOT NULL CONSTRAINT ledger_entries_transaction REFERENCES ledger_transactions (id),
    account        text   NOT NULL CONSTRAINT ledger_entries_account_known CHECK (account IN ('stripe_balance', 'host_payable', 'platform_revenue')),
    currency       text   NOT NULL,
    amount_minor   bigint NOT NULL CONSTRAINT ledger_entries_not_zero CHECK (amount_minor <> 0), -- debit positive, credit negative
    CONSTRAINT ledger_entries_pkey PRIMARY KEY (transaction_id, account, currency)
);
CREATE FUNCTION ledger_check_balanced() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM ledger_entries WHERE transaction_id = NEW.transaction_id GROUP BY currency HAVING sum(amount_minor) <> 0) THEN
        RAISE EXCEPTION 'ledger transaction % is not balanced', NEW.transaction_id USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_balanced';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER ledger_balanced AFTER INSERT ON ledger_entries DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION ledger_check_balanced();
CREATE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only' USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_immutable';
END $$;
CREATE TRIGGER ledger_transactions_immutable BEFORE UPDATE OR DELETE ON ledger_transactions FOR EACH ROW EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER ledger_entries_immutable BEFORE UPDATE OR DELETE ON ledger_entries FOR EACH ROW EXECUTE FUNCTION ledger_refuse_change();

-- Stripe's webhooks, each stored once. Only what says which object to read again at Stripe.
CREATE TABLE stripe_events (
    id          text        PRIMARY KEY,
    type        text        NOT NULL,
    object_id   text        NOT NULL,
    created_at  timestamptz NOT NULL, -- Stripe's clock
    received_at timestamptz NOT NULL,
    handled_at  timestamptz
);
CREATE INDEX stripe_events_received_at ON stripe_events (received_at);
