-- One booking as the API makes it, statement by statement and in its order: the property's lock, the nights that are
-- taken, the booking with its payment and timeline, and the two jobs (`roost_shared::bookings::request`, the enqueueing
-- in `roost_shared::jobs`). Ids count up, as the API's do; they are made in the first statement, because pgbench can only
-- calculate with numbers, and so are the dates. `tests/it/bench_transaction.rs` compares the statements with what the API
-- sends, but for their order and for lists of states.
\set n :n + 1
\set number :base + :n * 20 + :client_id
\set day {first_day} + :number / {properties} * 3
BEGIN;
SELECT id, host_id, status, title, city, currency, nightly_rate_minor, cleaning_fee_minor, min_nights, max_nights, max_guests, time_zone,
       check_in_from, check_out_by, instant_book, cancellation_policy,
       '01910000-0000-7000-8000-' || lpad(to_hex(:number::bigint), 12, '0') AS booking_id,
       '01910000-0000-7000-9000-' || lpad(to_hex(:number::bigint), 12, '0') AS payment_id,
       '01910000-0000-7000-a000-' || lpad(to_hex(:number::bigint), 12, '0') AS authorize_id,
       '01910000-0000-7000-b000-' || lpad(to_hex(:number::bigint), 12, '0') AS expire_id,
       '01900000-0000-7000-8000-' || lpad(to_hex({hosts} + 1 + :number::bigint % 500), 12, '0') AS guest_id,
       CURRENT_DATE + :day::int AS check_in, CURRENT_DATE + :day::int + 2 AS check_out,
       now() AS at, now() + interval '15 minutes' AS hold_expires_at
FROM properties WHERE id = ('01900000-0000-7000-9000-' || lpad(to_hex(1 + :number::bigint % {properties}), 12, '0'))::uuid
FOR NO KEY UPDATE \gset
SELECT stay FROM bookings WHERE property_id = :id AND stay && daterange(:check_in, :check_out)
AND state IN ('held', 'pending_approval', 'confirmed', 'checked_in', 'checked_out', 'completed', 'cancelled_by_host')
ORDER BY stay LIMIT 1;
WITH guest AS (
    SELECT id FROM users WHERE id = :guest_id AND deleted_at IS NULL FOR KEY SHARE),
booking AS (
    INSERT INTO bookings (id, property_id, guest_id, host_id, state, stay, guests, instant_book, cancellation_policy, time_zone,
        check_in_from, check_out_by, currency, price_lines, total_minor, host_fee_minor, hold_expires_at, created_at, updated_at)
    SELECT :booking_id, :id, id, :host_id, 'held', daterange(:check_in, :check_out), 1, :instant_book, :cancellation_policy, :time_zone,
        :check_in_from, :check_out_by, :currency,
        '[{"kind": "nights", "label": "2 nights", "quantity": 2, "unit_minor": 12000, "amount_minor": 24000}, {"kind": "cleaning_fee", "label": "Cleaning fee", "quantity": 1, "unit_minor": 4000, "amount_minor": 4000}, {"kind": "guest_service_fee", "label": "Guest service fee", "quantity": 1, "unit_minor": 3360, "amount_minor": 3360}]',
        31360, 840, :hold_expires_at, :at, :at FROM guest),
payment AS (
    INSERT INTO payments (id, booking_id, guest_id, host_id, number, state, currency, amount_minor, payment_method, created_at, updated_at)
    SELECT :payment_id, :booking_id, id, :host_id, 1, 'pending', :currency, 31360, 'pm_card_visa', :at, :at FROM guest)
INSERT INTO booking_events (booking_id, at, event, actor, actor_id, to_state, accepted)
SELECT :booking_id, :at, 'requested', 'guest', id, 'held', true FROM guest;
INSERT INTO jobs (id, kind, queue, priority, args, dedupe_key, max_attempts, state, run_at, published_at, trace_context, actor,
                  batch_id, parent_id)
SELECT id, kind, queue, priority, args, dedupe_key, max_attempts,
       CASE WHEN run_at IS NULL THEN 'queued' ELSE 'scheduled' END,
       coalesce(run_at, now()),
       CASE WHEN run_at IS NULL AND published THEN now() END, '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01', :guest_id, batch_id, NULL
FROM unnest(ARRAY[:authorize_id, :expire_id]::uuid[], '{payment.authorize,booking.expire_hold}'::text[], '{payments,confirmation}'::text[],
            '{10,30}'::smallint[],
            ARRAY[jsonb_build_object('payment_id', :payment_id::text), jsonb_build_object('booking_id', :booking_id::text)]::jsonb[],
            ARRAY['payment.authorize:' || :payment_id, 'booking.expire_hold:' || :booking_id]::text[], '{1000000,1000000}'::int[],
            ARRAY[NULL, :hold_expires_at]::timestamptz[], '{NULL,NULL}'::uuid[], '{true,true}'::bool[])
     AS new (id, kind, queue, priority, args, dedupe_key, max_attempts, run_at, batch_id, published)
ON CONFLICT (dedupe_key) WHERE dedupe_key IS NOT NULL AND state IN ('scheduled', 'queued', 'running', 'retrying')
DO UPDATE SET rerun = true WHERE jobs.state = 'running'
RETURNING id, queue, state = 'queued' AND published_at IS NOT NULL AS "due!";
COMMIT;
