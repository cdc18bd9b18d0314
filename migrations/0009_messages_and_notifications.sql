-- Between guest and host of a booking.
CREATE TABLE messages (
    id           uuid        CONSTRAINT messages_pkey PRIMARY KEY,
    booking_id   uuid        NOT NULL CONSTRAINT messages_booking REFERENCES bookings (id),
    sender_id    uuid        NOT NULL CONSTRAINT messages_sender REFERENCES users (id),
    recipient_id uuid        NOT NULL CONSTRAINT messages_recipient REFERENCES users (id),
    text         text        NOT NULL CONSTRAINT messages_text_length CHECK (char_length(text) BETWEEN 1 AND 2000),
    created_at   timestamptz NOT NULL,
    read_at      timestamptz,
    -- The message whose job put this one into a mail; a message is mailed once.
    digest_id    uuid,
    CONSTRAINT messages_to_the_other CHECK (sender_id <> recipient_id)
);
CREATE INDEX messages_by_booking ON messages (booking_id, id);
CREATE INDEX messages_unread ON messages (recipient_id, booking_id, id) WHERE read_at IS NULL;
CREATE INDEX messages_unmailed ON messages (recipient_id) WHERE read_at IS NULL AND digest_id IS NULL;
CREATE INDEX messages_by_digest ON messages (digest_id) WHERE digest_id IS NOT NULL;

-- What a user is told inside the product, beside mail.
CREATE TABLE notifications (
    id         uuid        CONSTRAINT notifications_pkey PRIMARY KEY,
    user_id    uuid        NOT NULL CONSTRAINT notifications_user REFERENCES users (id),
    kind       text        NOT NULL CONSTRAINT notifications_kind_known CHECK (kind IN ('booking', 'message', 'review')),
    event      text        NOT NULL,
    booking_id uuid        NOT NULL CONSTRAINT notifications_booking REFERENCES bookings (id),
    created_at timestamptz NOT NULL,
    read_at    timestamptz
);
CREATE INDEX notifications_by_user ON notifications (user_id, id);
CREATE INDEX notifications_unread ON notifications (user_id, id) WHERE read_at IS NULL;
CREATE INDEX notifications_created_at ON notifications (created_at);

-- What a user chose; without a row everything is told. Mails about bookings and payments are always sent.
CREATE TABLE notification_preferences (
    user_id    uuid        NOT NULL CONSTRAINT notification_preferences_user REFERENCES users (id),
    kind       text        NOT NULL CONSTRAINT notification_preferences_kind_known CHECK (kind IN ('booking', 'message', 'review')),
    channel    text        NOT NULL CONSTRAINT notification_preferences_channel_known CHECK (channel IN ('email', 'in_app')),
    enabled    boolean     NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT notification_preferences_pkey PRIMARY KEY (user_id, kind, channel),
    CONSTRAINT notification_preferences_booking_mail CHECK (enabled OR kind <> 'booking' OR channel <> 'email')
);

-- Keys that both programs need and nobody else: made here, so that there is nothing to configure. Whoever reads them
-- can read and change everything they protect anyway.
CREATE TABLE signing_keys (
    purpose text  CONSTRAINT signing_keys_pkey PRIMARY KEY,
    key     bytea NOT NULL CONSTRAINT signing_keys_length CHECK (octet_length(key) = 32)
);
-- 244 random bits each.
INSERT INTO signing_keys (purpose, key) VALUES ('unsubscribe', sha256((gen_random_uuid()::text || gen_random_uuid()::text)::bytea));
