-- A market of {properties} properties with five bookings each, the same on every run but for its dates, which are
-- around today. Ids are of version 7 in form and count up, as those of a running system do.

-- Plain indexes and foreign keys are set aside and made again at the end, when Postgres checks every reference at once.
-- The exclusion constraint stays and judges every stay as it comes.
SET maintenance_work_mem = '256MB';
CREATE TEMPORARY TABLE set_aside AS
SELECT 0 AS turn, format('DROP INDEX %s', indexrelid::regclass) AS away, pg_get_indexdef(indexrelid) AS back
FROM pg_index WHERE NOT indisunique AND NOT indisexclusion
    AND indrelid IN ('properties'::regclass, 'bookings'::regclass, 'payments'::regclass, 'booking_events'::regclass)
UNION ALL
SELECT 1, format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname),
       format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
FROM pg_constraint WHERE contype = 'f'
    AND conrelid IN ('properties'::regclass, 'bookings'::regclass, 'payments'::regclass, 'booking_events'::regclass);
DO $$ DECLARE statement text; BEGIN
    FOR statement IN SELECT away FROM set_aside LOOP EXECUTE statement; END LOOP;
END $$;

INSERT INTO users (id, email, password_hash, full_name, role, email_verified_at, created_at, updated_at)
SELECT ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
       'user' || n || '@roost.example', '{password_hash}', 'User ' || n,
       CASE WHEN n <= {hosts} THEN 'host' ELSE 'guest' END,
       now() - interval '500 days', now() - interval '500 days', now() - interval '500 days'
FROM generate_series(1, {properties}) AS n;

-- A few big cities and many small ones: city number 1 has a sixth of everything.
CREATE TEMPORARY TABLE cities AS
SELECT row_number() OVER () AS number, * FROM (VALUES
    ('Lisbon', 'PT', 38.72, -9.14, 'Europe/Lisbon', 'EUR', 9000), ('Paris', 'FR', 48.86, 2.35, 'Europe/Paris', 'EUR', 14000),
    ('Barcelona', 'ES', 41.39, 2.17, 'Europe/Madrid', 'EUR', 12000), ('Rome', 'IT', 41.90, 12.50, 'Europe/Rome', 'EUR', 11000),
    ('London', 'GB', 51.51, -0.13, 'Europe/London', 'GBP', 15000), ('Berlin', 'DE', 52.52, 13.40, 'Europe/Berlin', 'EUR', 10000),
    ('New York', 'US', 40.71, -74.01, 'America/New_York', 'USD', 21000), ('Tokyo', 'JP', 35.68, 139.69, 'Asia/Tokyo', 'JPY', 14000),
    ('Amsterdam', 'NL', 52.37, 4.90, 'Europe/Amsterdam', 'EUR', 16000), ('Porto', 'PT', 41.15, -8.61, 'Europe/Lisbon', 'EUR', 7000),
    ('Madrid', 'ES', 40.42, -3.70, 'Europe/Madrid', 'EUR', 10000), ('Florence', 'IT', 43.77, 11.26, 'Europe/Rome', 'EUR', 12000),
    ('Vienna', 'AT', 48.21, 16.37, 'Europe/Vienna', 'EUR', 9500), ('Prague', 'CZ', 50.08, 14.44, 'Europe/Prague', 'CZK', 210000),
    ('Budapest', 'HU', 47.50, 19.04, 'Europe/Budapest', 'EUR', 6500), ('Copenhagen', 'DK', 55.68, 12.57, 'Europe/Copenhagen', 'DKK', 120000),
    ('Athens', 'GR', 37.98, 23.73, 'Europe/Athens', 'EUR', 7000), ('Dublin', 'IE', 53.35, -6.26, 'Europe/Dublin', 'EUR', 15000),
    ('Edinburgh', 'GB', 55.95, -3.19, 'Europe/London', 'GBP', 11000), ('Munich', 'DE', 48.14, 11.58, 'Europe/Berlin', 'EUR', 12500),
    ('Lyon', 'FR', 45.76, 4.84, 'Europe/Paris', 'EUR', 8000), ('Seville', 'ES', 37.39, -5.98, 'Europe/Madrid', 'EUR', 8500),
    ('Venice', 'IT', 45.44, 12.32, 'Europe/Rome', 'EUR', 14500), ('Kyoto', 'JP', 35.01, 135.77, 'Asia/Tokyo', 'JPY', 16000),
    ('Chicago', 'US', 41.88, -87.63, 'America/Chicago', 'USD', 15000), ('Toronto', 'CA', 43.65, -79.38, 'America/Toronto', 'CAD', 17000),
    ('Sydney', 'AU', -33.87, 151.21, 'Australia/Sydney', 'AUD', 20000), ('Melbourne', 'AU', -37.81, 144.96, 'Australia/Melbourne', 'AUD', 17000),
    ('Zurich', 'CH', 47.38, 8.54, 'Europe/Zurich', 'CHF', 19000), ('Bruges', 'BE', 51.21, 3.22, 'Europe/Brussels', 'EUR', 11000),
    ('Krakow', 'PL', 50.06, 19.94, 'Europe/Warsaw', 'PLN', 30000), ('Valencia', 'ES', 39.47, -0.38, 'Europe/Madrid', 'EUR', 8000),
    ('Naples', 'IT', 40.85, 14.27, 'Europe/Rome', 'EUR', 8000), ('Nice', 'FR', 43.70, 7.27, 'Europe/Paris', 'EUR', 12000),
    ('Bergen', 'NO', 60.39, 5.32, 'Europe/Oslo', 'NOK', 140000), ('Gothenburg', 'SE', 57.71, 11.97, 'Europe/Stockholm', 'SEK', 120000),
    ('Helsinki', 'FI', 60.17, 24.94, 'Europe/Helsinki', 'EUR', 10500), ('Tallinn', 'EE', 59.44, 24.75, 'Europe/Tallinn', 'EUR', 7000),
    ('Split', 'HR', 43.51, 16.44, 'Europe/Zagreb', 'EUR', 9000), ('Marrakesh', 'MA', 31.63, -7.99, 'Africa/Casablanca', 'MAD', 70000)
) AS city (name, country, latitude, longitude, time_zone, currency, rate);

INSERT INTO properties (id, host_id, title, description, city, country, latitude, longitude, time_zone, currency,
    nightly_rate_minor, cleaning_fee_minor, max_guests, bedrooms, beds, bathrooms, amenities, house_rules, check_in_from,
    check_out_by, min_nights, max_nights, instant_book, cancellation_policy, status, rating_hundredths, review_count,
    created_at, updated_at)
SELECT ('01900000-0000-7000-9000-' || lpad(to_hex(n), 12, '0'))::uuid,
       ('01900000-0000-7000-8000-' || lpad(to_hex(1 + n % {hosts}), 12, '0'))::uuid,
       (ARRAY['Bright', 'Quiet', 'Sunny', 'Old', 'Cosy', 'Wide', 'Small'])[1 + n % 7] || ' '
           || (ARRAY['flat', 'house', 'loft', 'studio', 'room'])[1 + n % 5] || ' in ' || city.name || ', no. ' || n,
       (ARRAY['On the top floor, with a view over the roofs.', 'On the ground floor, with a garden of its own.',
              'In a back building, so that no car is heard.'])[1 + n % 3]
           || ' The rooms were done up two years ago and have wooden floors, high ceilings and blinds that keep the morning out. '
           || 'The kitchen has all that is needed to cook for as many as sleep here; oil, salt, coffee and tea are there. '
           || (ARRAY['The market is round the corner and the station ten minutes away on foot.',
                     'A tram stops in front of the door and is in the middle of the city in a quarter of an hour.',
                     'Shops, cafés and a park are within five minutes.'])[1 + n / 3 % 3]
           || ' There are fresh sheets and towels for everybody, and we live near by should anything be amiss.',
       city.name, city.country, city.latitude + (n % 97 - 48) / 1000.0, city.longitude + (n % 89 - 44) / 1000.0,
       city.time_zone, city.currency, greatest(1, city.rate * (40 + n * 7919 % 200) / 100), city.rate / 3,
       1 + n % 8, n % 5, 1 + n % 6, 1 + n % 3,
       ARRAY(SELECT amenity FROM unnest(ARRAY['wifi', 'kitchen', 'heating', 'washing_machine', 'tv', 'desk', 'balcony', 'elevator',
               'free_parking', 'pets_allowed', 'garden', 'pool', 'sauna', 'sea_view']) WITH ORDINALITY AS a (amenity, position)
             WHERE hashint8(n * 31 + position) & 15 > position),
       'No parties, no smoking indoors. Quiet from ten in the evening.', '15:00', '11:00',
       1 + n % 3 / 2, 28, n % 4 <> 0, (ARRAY['flexible', 'moderate', 'limited', 'firm'])[1 + n % 4], 'listed',
       CASE WHEN n % 10 < 3 THEN 0 ELSE 350 + (hashint8(n) & 127) END, CASE WHEN n % 10 < 3 THEN 0 ELSE 1 + n % 90 END,
       now() - interval '500 days' + n * interval '1 second', now() - interval '30 days'
FROM generate_series(1, {properties}) AS n
JOIN cities AS city ON city.number = 1 + floor(40 * power((hashint8(n * 17) & 65535) / 65536.0, 2));

-- Five stays a property, one in each span of 110 days from 400 days ago on, so that none overlaps another.
INSERT INTO bookings (id, property_id, guest_id, host_id, state, stay, guests, instant_book, cancellation_policy, time_zone,
    check_in_from, check_out_by, currency, price_lines, total_minor, host_fee_minor, hold_expires_at, confirmed_at, created_at,
    updated_at)
SELECT ('01900000-0000-7000-a000-' || lpad(to_hex(number), 12, '0'))::uuid, p.id,
       ('01900000-0000-7000-8000-' || lpad(to_hex({hosts} + 1 + number * 7919 % ({properties} - {hosts})), 12, '0'))::uuid,
       p.host_id,
       CASE WHEN number % 20 = 0 THEN 'cancelled_by_guest' WHEN number % 33 = 0 THEN 'expired'
            WHEN check_in + nights <= CURRENT_DATE THEN 'completed' ELSE 'confirmed' END,
       daterange(check_in, check_in + nights), 1 + number % p.max_guests, p.instant_book, p.cancellation_policy, p.time_zone,
       p.check_in_from, p.check_out_by, p.currency,
       jsonb_build_array(
           jsonb_build_object('kind', 'nights', 'label', nights || ' nights', 'quantity', nights,
                              'unit_minor', p.nightly_rate_minor, 'amount_minor', nights * p.nightly_rate_minor),
           jsonb_build_object('kind', 'cleaning_fee', 'label', 'Cleaning', 'quantity', 1,
                              'unit_minor', p.cleaning_fee_minor, 'amount_minor', p.cleaning_fee_minor)),
       nights * p.nightly_rate_minor + p.cleaning_fee_minor, nights * p.nightly_rate_minor / 33,
       check_in - interval '40 days', CASE WHEN number % 33 <> 0 THEN check_in - interval '40 days' END,
       check_in - interval '40 days', check_in - interval '40 days'
FROM (SELECT p.*, row_number() OVER (ORDER BY span, p.id) AS number, span,
             CURRENT_DATE - 400 + span * 110 + (hashint8(span * 7 + hashtext(p.id::text)) & 63) AS check_in,
             1 + (hashint8(span * 11 + hashtext(p.id::text)) & 15) % 14 AS nights
      FROM properties AS p CROSS JOIN generate_series(0, 4) AS span) AS p;

INSERT INTO payments (id, booking_id, guest_id, host_id, number, state, currency, amount_minor, authorized_minor, captured_minor,
    refunded_minor, payment_method, stripe_payment_intent_id, created_at, updated_at)
SELECT ('01900000-0000-7000-b000-' || right(id::text, 12))::uuid, id, guest_id, host_id, 1,
       CASE WHEN state = 'expired' THEN 'failed' ELSE 'captured' END, currency, total_minor,
       CASE WHEN state = 'expired' THEN 0 ELSE total_minor END, CASE WHEN state = 'expired' THEN 0 ELSE total_minor END,
       CASE WHEN state = 'cancelled_by_guest' THEN total_minor ELSE 0 END, 'pm_card_visa', 'pi_' || right(id::text, 12),
       created_at, updated_at
FROM bookings;

INSERT INTO booking_events (booking_id, at, event, actor, actor_id, to_state, accepted)
SELECT id, created_at, 'requested', 'guest', guest_id, 'held', true FROM bookings;

DO $$ DECLARE statement text; BEGIN
    FOR statement IN SELECT back FROM set_aside ORDER BY turn LOOP EXECUTE statement; END LOOP;
END $$;
