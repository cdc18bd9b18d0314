-- A conversation that is not read is one notification, however many messages come: it counts them.
ALTER TABLE notifications
    ADD COLUMN count int NOT NULL DEFAULT 1 CONSTRAINT notifications_count_positive CHECK (count > 0),
    -- When it last happened.
    ADD COLUMN last_at timestamptz,
    -- The newest message that it tells of; others tell of none, and so do those that a program of before this still writes.
    ADD COLUMN last_message_id uuid;

-- Of what is there, the newest unread notification of a conversation stays, with the count of all. What it tells of is
-- the newest message there was.
WITH unread AS (
    SELECT user_id, booking_id, max(id::text)::uuid AS id, count(*)::int AS count FROM notifications
    WHERE event = 'message_received' AND read_at IS NULL GROUP BY user_id, booking_id)
UPDATE notifications SET count = unread.count FROM unread WHERE notifications.id = unread.id AND unread.count > 1;
DELETE FROM notifications USING notifications AS newer
WHERE notifications.event = 'message_received' AND notifications.read_at IS NULL AND newer.event = 'message_received'
  AND newer.read_at IS NULL AND newer.user_id = notifications.user_id AND newer.booking_id = notifications.booking_id
  AND newer.id > notifications.id;
UPDATE notifications SET last_at = created_at, last_message_id = CASE WHEN event = 'message_received' THEN (
    SELECT id FROM messages WHERE messages.booking_id = notifications.booking_id AND recipient_id = user_id ORDER BY id DESC LIMIT 1) END;
ALTER TABLE notifications ALTER COLUMN last_at SET NOT NULL, ALTER COLUMN last_at SET DEFAULT now();
ALTER TABLE notifications
    ADD CONSTRAINT notifications_message_of_conversation CHECK (last_message_id IS NULL OR event = 'message_received');

CREATE UNIQUE INDEX notifications_one_a_conversation ON notifications (user_id, booking_id)
    WHERE event = 'message_received' AND read_at IS NULL AND last_message_id IS NOT NULL;
CREATE INDEX notifications_by_kind ON notifications (user_id, kind, id);
CREATE INDEX notifications_unread_by_kind ON notifications (user_id, kind, id) WHERE read_at IS NULL;
-- What is old is what nothing has been added to for long.
CREATE INDEX notifications_last_at ON notifications (last_at);
DROP INDEX notifications_created_at;
