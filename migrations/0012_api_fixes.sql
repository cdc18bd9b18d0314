-- A reply that Prefer: wait still holds is not final before this; nobody is sent it until it is.
ALTER TABLE idempotency_keys ADD COLUMN held_until timestamptz;
-- The entity tag that the reply was sent with.
ALTER TABLE idempotency_keys ADD COLUMN etag text;

-- The public list by a currency alone, which may be a rare one.
CREATE INDEX properties_by_currency ON properties (currency, (-rating_hundredths), id)
    INCLUDE (rating_hundredths, country, nightly_rate_minor, max_guests, bedrooms, min_nights, max_nights, instant_book)
    WHERE status = 'listed';
-- For large groups: few properties take them.
CREATE INDEX properties_by_guests ON properties (max_guests) WHERE status = 'listed';

-- Stays whose end is still to be noted.
CREATE INDEX bookings_by_end ON bookings (upper(stay)) WHERE state IN ('confirmed', 'checked_in', 'checked_out');
