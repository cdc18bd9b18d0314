CREATE TABLE bookings (
    id                  uuid        PRIMARY KEY,
    property_id         uuid        NOT NULL CONSTRAINT bookings_property REFERENCES properties (id),
    guest_id            uuid        NOT NULL CONSTRAINT bookings_guest REFERENCES users (id),
    host_id             uuid        NOT NULL CONSTRAINT bookings_host REFERENCES users (id),
    state               text        NOT NULL CONSTRAINT bookings_state_known CHECK (state IN (
                            'held', 'pending_approval', 'confirmed', 'checked_in', 'checked_out', 'completed',
                            'expired', 'declined', 'cancelled_by_guest', 'cancelled_by_host', 'no_show', 'payment_failed')),
    stay                daterange   NOT NULL CONSTRAINT bookings_stay_bounded CHECK (
                            NOT isempty(stay) AND lower_inc(stay) AND NOT upper_inc(stay) AND NOT lower_inf(stay) AND NOT upper_inf(stay)),
    guests              int         NOT NULL CONSTRAINT bookings_guests_positive CHECK (guests > 0),
    -- Frozen at booking: a later change of the property changes no booking.
    instant_book        boolean     NOT NULL,
    cancellation_policy text        NOT NULL,
    time_zone           text        NOT NULL,
    check_in_from       time        NOT NULL,
    check_out_by        time        NOT NULL,
    currency            text        NOT NULL,
    price_lines         jsonb       NOT NULL, -- [{kind, label, quantity, unit_minor, amount_minor}]
    total_minor         bigint      NOT NULL CONSTRAINT bookings_total_positive CHECK (total_minor > 0),
    host_fee_minor      bigint      NOT NULL,
    arrival_time        time,
    message             text,
    hold_expires_at     timestamptz NOT NULL,
    approval_expires_at timestamptz,
    confirmed_at        timestamptz,
    cancelled_at        timestamptz,
    version             int         NOT NULL DEFAULT 1,
    created_at          timestamptz NOT NULL,
    updated_at          timestamptz NOT NULL,
    -- The last judge of "a night is never sold twice". The states listed here are those that hold nights;
    -- BookingState::holds_nights repeats them and a test compares the two. A stay that its host cancelled
    -- stays blocked.
    CONSTRAINT bookings_no_overlap EXCLUDE USING gist (property_id WITH =, stay WITH &&) WHERE (state IN (
        'held', 'pending_approval', 'confirmed', 'checked_in', 'checked_out', 'completed', 'cancelled_by_host'))
);
CREATE INDEX bookings_by_guest ON bookings (guest_id, id DESC);
CREATE INDEX bookings_by_host ON bookings (host_id, id DESC);
CREATE INDEX bookings_by_property ON bookings (property_id, id DESC);

-- The timeline: every transition, refused ones included. Append-only.
CREATE TABLE booking_events (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    booking_id uuid        NOT NULL CONSTRAINT booking_events_booking REFERENCES bookings (id),
    at         timestamptz NOT NULL,
    event      text        NOT NULL, -- what was asked or happened: requested, authorized, confirmed, cancelled, captured…
    actor      text        NOT NULL CONSTRAINT booking_events_actor_known CHECK (actor IN ('guest', 'host', 'system', 'stripe')),
    actor_id   uuid,
    from_state text,
    to_state   text,
    accepted   boolean     NOT NULL,
    reason     text
);
CREATE INDEX booking_events_by_booking ON booking_events (booking_id, id);
