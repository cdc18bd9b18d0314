-- One booking as `roost_shared::bookings::request` makes it, with the two jobs that it enqueues. Ids count up, as the
-- API's do; they are made in the first statement, because pgbench can only calculate with numbers.
\set n :n + 1
\set number :base + :n * 20 + :client_id
\set day {first_day} + :number / {properties} * 3
BEGIN;
SELECT id AS property_id, host_id, status, title, city, currency, nightly_rate_minor, cleaning_fee_minor, min_nights, max_nights,
       max_guests, time_zone, check_in_from, check_out_by, instant_book, cancellation_policy,
       '01910000-0000-7000-8000-' || lpad(to_hex(:number::bigint), 12, '0') AS booking_id,
       '01910000-0000-7000-9000-' || lpad(to_hex(:number::bigint), 12, '0') AS payment_id,
       '01910000-0000-7000-a000-' || lpad(to_hex(:number::bigint), 12, '0') AS authorize_id,
       '01910000-0000-7000-b000-' || lpad(to_hex(:number::bigint), 12, '0') AS expire_id,
       '01900000-0000-7000-8000-' || lpad(to_hex({hosts} + 1 + :number::bigint % 500), 12, '0') AS guest_id,
       CURRENT_DATE + :day::int AS check_in, CURRENT_DATE + :day::int + 2 AS check_out
FROM properties WHERE id = ('01900000-0000-7000-9000-' || lpad(to_hex(1 + :number::bigint % {properties}), 12, '0'))::uuid
FOR NO KEY UPDATE \gset
SELECT stay FROM bookings WHERE property_id = :property_id AND stay && daterange(:check_in, :check_out)
AND state IN ('held', 'pending_approval', 'confirmed', 'checked_in', 'checked_out', 'completed', 'cancelled_by_host')
ORDER BY stay LIMIT 1;
WITH booking AS (
    INSERT INTO bookings (id, property_id, guest_id, host_id, state, stay, guests, instant_book, cancellation_policy, time_zone,
        check_in_from, check_out_by, currency, price_lines, total_minor, host_fee_minor, hold_expires_at, created_at, updated_at)
    VALUES (:booking_id, :property_id, :guest_id, :host_id, 'held', daterange(:check_in, :check_out), 1, :instant_book, :cancellation_policy,
        :time_zone, :check_in_from, :check_out_by, :currency,
        '[{"kind": "nights", "label": "2 nights", "quantity": 2, "unit_minor": 12000, "amount_minor": 24000}, {"kind": "cleaning_fee", "label": "Cleaning fee", "quantity": 1, "unit_minor": 4000, "amount_minor": 4000}, {"kind": "guest_service_fee", "label": "Service fee", "quantity": 1, "unit_minor": 2800, "amount_minor": 2800}]',
        30800, 900, now() + interval '15 minutes', now(), now())),
payment AS (
    INSERT INTO payments (id, booking_id, guest_id, host_id, number, state, currency, amount_minor, payment_method, created_at, updated_at)
    VALUES (:payment_id, :booking_id, :guest_id, :host_id, 1, 'pending', :currency, 30800, 'pm_card_visa', now(), now()))
INSERT INTO booking_events (booking_id, at, event, actor, actor_id, to_state, accepted)
VALUES (:booking_id, now(), 'requested', 'guest', :guest_id, 'held', true);
INSERT INTO jobs (id, kind, queue, priority, args, dedupe_key, max_attempts, state, run_at, published_at, trace_context, actor)
SELECT id, kind, queue, priority, args, dedupe_key, max_attempts,
       CASE WHEN run_at IS NULL THEN 'queued' ELSE 'scheduled' END,
       coalesce(run_at, now()),
       CASE WHEN run_at IS NULL THEN now() END, '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01', :guest_id
FROM unnest(ARRAY[:authorize_id, :expire_id]::uuid[], '{payment.authorize,booking.expire_hold}'::text[], '{payments,confirmation}'::text[],
            '{10,30}'::smallint[], ARRAY[jsonb_build_object('payment_id', :payment_id::text), jsonb_build_object('booking_id', :booking_id::text)],
            ARRAY['payment.authorize:' || :payment_id, NULL]::text[], '{500,100}'::int[],
            ARRAY[NULL, now() + interval '15 minutes']::timestamptz[])
     AS new (id, kind, queue, priority, args, dedupe_key, max_attempts, run_at)
ON CONFLICT (dedupe_key) WHERE dedupe_key IS NOT NULL AND state IN ('scheduled', 'queued', 'running', 'retrying')
DO NOTHING
RETURNING id, queue, state = 'queued' AS due;
COMMIT;
