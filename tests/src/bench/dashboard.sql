-- {jobs} jobs of the last seven days, of the bookings in the data set: most have succeeded, one in a hundred is dead, and a
-- few are in each other state. Ids are of version 7 and count up with time, as those of a running system do.
--
-- The first {looks} guests have as much as a search for somebody follows: 40 bookings each, all with jobs, and of each
-- booking ten messages that were mailed and ten of Stripe's events. Of one job in a thousand, nobody knows what became of its mail.
CREATE FUNCTION pg_temp.entity(of_kind text, number bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT '01900000-0000-7000-' || of_kind || '-' || lpad(to_hex(1 + number), 12, '0')
$$;

UPDATE bookings SET guest_id = wide.guest_id
FROM (SELECT pg_temp.entity('a000', n)::uuid AS id, pg_temp.entity('8000', {hosts} + n / 40)::uuid AS guest_id
      FROM generate_series(0, {looks} * 40 - 1) AS n) AS wide
WHERE bookings.id = wide.id;
INSERT INTO messages (id, booking_id, sender_id, recipient_id, text, created_at)
SELECT pg_temp.entity('c000', n)::uuid, id, guest_id, host_id, 'Is there a place for two bicycles?', created_at
FROM generate_series(0, {looks} * 400 - 1) AS n JOIN bookings ON id = pg_temp.entity('a000', n / 10)::uuid;
INSERT INTO stripe_events (id, type, object_id, created_at, received_at, handled_at)
SELECT 'evt_wide_' || n, 'payment_intent.succeeded', stripe_payment_intent_id, created_at, created_at, created_at
FROM generate_series(0, {looks} * 400 - 1) AS n JOIN payments ON id = pg_temp.entity('b000', n / 10)::uuid;

INSERT INTO jobs (id, kind, queue, priority, args, max_attempts, state, run_at, attempt, fence, last_error, created_at,
    started_at, finished_at, published_at, lease_owner, lease_until)
SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7000b000' || lpad(to_hex(n), 12, '0'))::uuid,
       kind.name, kind.queue, kind.priority,
       CASE kind.name
           WHEN 'mail.send' THEN CASE WHEN n / 5 < {looks} * 400
               THEN jsonb_build_object('mail', 'unread-messages', 'subject_id', pg_temp.entity('c000', n / 5))
               ELSE jsonb_build_object('mail', 'booking-confirmed', 'subject_id', pg_temp.entity('a000', n / 5 % {bookings})) END
           WHEN 'cache.warm' THEN jsonb_build_object('property_id', pg_temp.entity('9000', n / 5 % {properties}))
           WHEN 'booking.confirm' THEN jsonb_build_object('booking_id', pg_temp.entity('a000', n / 5 % {bookings}))
           ELSE jsonb_build_object('payment_id', pg_temp.entity('b000', n / 5 % {bookings})) END,
       15, state,
       CASE WHEN state IN ('scheduled', 'retrying') THEN now() + make_interval(secs => n % 86400) ELSE at END,
       attempt, attempt,
       CASE WHEN state IN ('dead', 'retrying') OR attempt > 1 THEN
           CASE n % 3 WHEN 0 THEN 'Stripe: card_declined: the card was declined (insufficient_funds), request req_' || md5(n::text)
                      WHEN 1 THEN 'connecting to the mail server: connection refused (os error 111), attempt ' || attempt
                      ELSE 'no end after 30s' END END,
       at,
       CASE WHEN attempt > 0 THEN at + interval '20 ms' END,
       CASE WHEN state IN ('succeeded', 'dead', 'cancelled', 'quarantined') THEN at + interval '80 ms' END,
       CASE WHEN state = 'queued' THEN at END,
       CASE WHEN state = 'running' THEN 'bench-2' WHEN attempt > 0 THEN 'bench-1' END,
       CASE WHEN state = 'running' THEN now() + interval '1 hour' END
FROM (
    SELECT n, at, state, CASE WHEN state IN ('scheduled', 'queued') THEN 0 WHEN state = 'dead' THEN 15 WHEN n % 50 = 1 THEN 2 + n % 8 ELSE 1 END AS attempt
    FROM (
        SELECT n::bigint AS n, now() - interval '7 days' * (1 - n / {jobs}::float8) AS at,
               CASE WHEN n % 100 = 7 THEN 'dead' WHEN n % 200 = 11 THEN 'cancelled' WHEN n % 1000 = 13 THEN 'quarantined'
                    WHEN n % 200 = 17 THEN 'retrying' WHEN n % 200 = 19 THEN 'scheduled' WHEN n % 500 = 23 THEN 'queued'
                    WHEN n % 10000 = 29 THEN 'running'
                    ELSE 'succeeded' END AS state
        FROM generate_series(0, {jobs} - 1) AS n) AS placed) AS job,
    LATERAL (SELECT * FROM (VALUES
        (0, 'payment.authorize', 'payments', 10), (1, 'booking.confirm', 'confirmation', 20), (2, 'payment.capture', 'payments', 20),
        (3, 'mail.send', 'notifications', 50), (4, 'cache.warm', 'cache', 80)) AS kind (number, name, queue, priority)
        WHERE kind.number = n % 5) AS kind;

INSERT INTO job_attempts (job_id, job_kind, fence, attempt, worker, started_at, ended_at, outcome, error)
SELECT id, kind, fence, attempt, lease_owner, started_at, coalesce(finished_at, started_at + interval '60 ms'),
       CASE state WHEN 'succeeded' THEN 'succeeded' WHEN 'cancelled' THEN 'cancelled' WHEN 'retrying' THEN 'retry' ELSE 'failed' END, last_error
FROM jobs WHERE lease_owner = 'bench-1';

INSERT INTO effects (key, job_id, fence, entity_id, state, first_sent_at, updated_at)
SELECT CASE kind WHEN 'mail.send' THEN 'mail:' ELSE 'capture:' END || id, id, fence,
       coalesce(args->>'subject_id', args->>'payment_id')::uuid,
       CASE state WHEN 'quarantined' THEN 'unknown' WHEN 'dead' THEN 'failed' ELSE 'done' END, started_at, finished_at
FROM jobs WHERE kind IN ('mail.send', 'payment.capture') AND finished_at IS NOT NULL;
