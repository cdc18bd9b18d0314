-- From here on the card is only ever released: nothing is confirmed, approved or captured on it. Committed before Stripe
-- is asked to cancel, so that whoever confirms a booking sees it.
ALTER TABLE payments ADD COLUMN release_started_at timestamptz;

-- What the sweeper looks for: holds and requests past their time, money that nobody moves, events that nobody handled.
CREATE INDEX bookings_held_until ON bookings (hold_expires_at) WHERE state = 'held';
CREATE INDEX bookings_approval_until ON bookings (approval_expires_at) WHERE state = 'pending_approval';
CREATE INDEX stripe_events_unhandled ON stripe_events (received_at) WHERE handled_at IS NULL;
CREATE INDEX payments_authorized ON payments (updated_at) WHERE state = 'authorized';
CREATE INDEX refunds_pending ON refunds (created_at) WHERE state = 'pending';
-- A job that takes workers down with it is left to an operator, not swept up again.
CREATE INDEX jobs_quarantined ON jobs (dedupe_key) WHERE dedupe_key IS NOT NULL AND state = 'quarantined';
