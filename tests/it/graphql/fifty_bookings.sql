-- From one booking fifty: each copy with a host, a flat, a payment, a refund, a review, a timeline and a notification
-- of its own.
CREATE TEMP TABLE copies AS
    SELECT n, md5('host' || n)::uuid AS host_id, md5('flat' || n)::uuid AS flat_id, md5('booking' || n)::uuid AS booking_id,
           md5('payment' || n)::uuid AS payment_id
    FROM generate_series(1, 49) AS n;
INSERT INTO users
    SELECT (jsonb_populate_record(NULL::users, to_jsonb(host) || jsonb_build_object(
        'id', host_id, 'email', 'copy' || n || '@example.com', 'full_name', 'Host' || n || ' Copy'))).*
    FROM copies, (SELECT * FROM users WHERE role = 'host' ORDER BY id LIMIT 1) AS host;
INSERT INTO properties
    SELECT (jsonb_populate_record(NULL::properties, to_jsonb(flat) || jsonb_build_object('id', flat_id, 'host_id', copies.host_id, 'title', 'Flat number ' || n))).*
    FROM copies, (SELECT * FROM properties ORDER BY id LIMIT 1) AS flat;
INSERT INTO bookings
    SELECT (jsonb_populate_record(NULL::bookings, to_jsonb(booking) || jsonb_build_object('id', copies.booking_id, 'property_id', flat_id, 'host_id', copies.host_id))).*
    FROM copies, (SELECT * FROM bookings ORDER BY id LIMIT 1) AS booking;
INSERT INTO payments
    SELECT (jsonb_populate_record(NULL::payments, to_jsonb(payment) || jsonb_build_object('id', payment_id, 'booking_id', copies.booking_id, 'host_id', copies.host_id))).*
    FROM copies, (SELECT * FROM payments ORDER BY id LIMIT 1) AS payment;
INSERT INTO booking_events (booking_id, at, event, actor, actor_id, from_state, to_state, accepted, reason)
    SELECT copies.booking_id, at, event, actor, actor_id, from_state, to_state, accepted, reason FROM copies, booking_events;
INSERT INTO refunds (id, payment_id, amount_minor, reason, state, created_at, updated_at)
    SELECT md5('refund' || payments.id)::uuid, payments.id, 100, 'by_host', 'pending', created_at, created_at FROM payments;
INSERT INTO reviews (id, booking_id, property_id, side, author_id, subject_id, overall, text, created_at, published_at)
    SELECT md5('review' || id)::uuid, id, property_id, 'guest', guest_id, host_id, 5, 'Quiet at night, strong coffee.', created_at,
           created_at FROM bookings;
INSERT INTO notifications (id, user_id, kind, event, booking_id, created_at, last_at)
    SELECT md5('notification' || id)::uuid, guest_id, 'booking', 'booking_confirmed', id, created_at, created_at FROM bookings;
DROP TABLE copies;
