-- Who may hide reviews. Granted by `roost-api grant-moderator`, never over HTTP.
ALTER TABLE users ADD COLUMN is_moderator boolean NOT NULL DEFAULT false;

-- One row per booking that was checked out: from then on both sides may write, until closes_at or until both have.
CREATE TABLE review_windows (
    booking_id uuid        CONSTRAINT review_windows_pkey PRIMARY KEY CONSTRAINT review_windows_booking REFERENCES bookings (id),
    opened_at  timestamptz NOT NULL,
    closes_at  timestamptz NOT NULL,
    -- When what was written became public and nothing more could be written.
    settled_at timestamptz,
    CONSTRAINT review_windows_order CHECK (closes_at > opened_at)
);

CREATE TABLE reviews (
    id            uuid        CONSTRAINT reviews_pkey PRIMARY KEY,
    booking_id    uuid        NOT NULL CONSTRAINT reviews_booking REFERENCES bookings (id),
    property_id   uuid        NOT NULL CONSTRAINT reviews_property REFERENCES properties (id),
    -- Who wrote: the guest of the stay, or the host of the guest.
    side          text        NOT NULL CONSTRAINT reviews_side_known CHECK (side IN ('guest', 'host')),
    author_id     uuid        NOT NULL CONSTRAINT reviews_author REFERENCES users (id),
    subject_id    uuid        NOT NULL CONSTRAINT reviews_subject REFERENCES users (id),
    -- Stars.
    overall       smallint    NOT NULL CONSTRAINT reviews_overall_range CHECK (overall BETWEEN 1 AND 5),
    cleanliness   smallint    CONSTRAINT reviews_cleanliness_range CHECK (cleanliness BETWEEN 1 AND 5),
    accuracy      smallint    CONSTRAINT reviews_accuracy_range CHECK (accuracy BETWEEN 1 AND 5),
    check_in      smallint    CONSTRAINT reviews_check_in_range CHECK (check_in BETWEEN 1 AND 5),
    communication smallint    CONSTRAINT reviews_communication_range CHECK (communication BETWEEN 1 AND 5),
    location      smallint    CONSTRAINT reviews_location_range CHECK (location BETWEEN 1 AND 5),
    value         smallint    CONSTRAINT reviews_value_range CHECK (value BETWEEN 1 AND 5),
    text          text        NOT NULL CONSTRAINT reviews_text_length CHECK (char_length(text) BETWEEN 10 AND 2000),
    answer        text        CONSTRAINT reviews_answer_length CHECK (char_length(answer) BETWEEN 1 AND 2000),
    answered_at   timestamptz,
    created_at    timestamptz NOT NULL,
    edited_at     timestamptz,
    published_at  timestamptz,
    -- By the author, before publication; the author may write another one then.
    deleted_at    timestamptz,
    hidden_at     timestamptz,
    hidden_by     uuid        CONSTRAINT reviews_moderator REFERENCES users (id),
    hidden_reason text,
    -- What lists are ordered by.
    shown_at      timestamptz NOT NULL GENERATED ALWAYS AS (coalesce(published_at, created_at)) STORED,
    CONSTRAINT reviews_not_of_oneself CHECK (author_id <> subject_id),
    CONSTRAINT reviews_host_categories CHECK (side = 'guest' OR (accuracy IS NULL AND check_in IS NULL AND location IS NULL AND value IS NULL)),
    CONSTRAINT reviews_answer_whole CHECK ((answer IS NULL) = (answered_at IS NULL)),
    CONSTRAINT reviews_answer_by_host CHECK (answer IS NULL OR (side = 'guest' AND published_at IS NOT NULL)),
    CONSTRAINT reviews_delete_unpublished CHECK (deleted_at IS NULL OR published_at IS NULL),
    CONSTRAINT reviews_hide_published CHECK (hidden_at IS NULL OR published_at IS NOT NULL),
    CONSTRAINT reviews_hidden_whole CHECK ((hidden_at IS NULL) = (hidden_reason IS NULL) AND (hidden_at IS NULL) = (hidden_by IS NULL))
);
-- One per booking and side.
CREATE UNIQUE INDEX reviews_one_per_side ON reviews (booking_id, side) WHERE deleted_at IS NULL;
-- The public lists, newest first or by stars.
CREATE INDEX reviews_newest ON reviews (shown_at, id) WHERE published_at IS NOT NULL AND hidden_at IS NULL;
CREATE INDEX reviews_by_stars ON reviews (overall, shown_at, id) WHERE published_at IS NOT NULL AND hidden_at IS NULL;
CREATE INDEX reviews_by_property ON reviews (property_id, shown_at, id) WHERE published_at IS NOT NULL AND hidden_at IS NULL;
CREATE INDEX reviews_by_property_stars ON reviews (property_id, overall, shown_at, id) WHERE published_at IS NOT NULL AND hidden_at IS NULL;
CREATE INDEX reviews_by_subject ON reviews (subject_id, shown_at, id) WHERE published_at IS NOT NULL AND hidden_at IS NULL;
CREATE INDEX reviews_by_subject_stars ON reviews (subject_id, overall, shown_at, id) WHERE published_at IS NOT NULL AND hidden_at IS NULL;
-- An author's own as well: unpublished and hidden ones.
CREATE INDEX reviews_by_author ON reviews (author_id, shown_at, id) WHERE deleted_at IS NULL;

CREATE TABLE review_reports (
    review_id   uuid        NOT NULL CONSTRAINT review_reports_review REFERENCES reviews (id),
    reporter_id uuid        NOT NULL CONSTRAINT review_reports_reporter REFERENCES users (id),
    reason      text        NOT NULL CONSTRAINT review_reports_reason_known CHECK (reason IN ('offensive', 'personal_information', 'untrue', 'spam', 'other')),
    details     text,
    created_at  timestamptz NOT NULL,
    CONSTRAINT review_reports_pkey PRIMARY KEY (review_id, reporter_id)
);

-- How many published reviews gave 1 to 5 stars, in this order: overall and by category, of a property, of a host over
-- all properties, of a guest. Kept in the transaction that publishes or hides a review.
CREATE DOMAIN star_counts AS int[] CONSTRAINT star_counts_five CHECK (array_length(VALUE, 1) = 5 AND 0 <= ALL (VALUE));
CREATE TABLE ratings (
    subject       text        NOT NULL CONSTRAINT ratings_subject_known CHECK (subject IN ('property', 'host', 'guest')),
    subject_id    uuid        NOT NULL,
    overall       star_counts NOT NULL DEFAULT '{0,0,0,0,0}',
    cleanliness   star_counts NOT NULL DEFAULT '{0,0,0,0,0}',
    accuracy      star_counts NOT NULL DEFAULT '{0,0,0,0,0}',
    check_in      star_counts NOT NULL DEFAULT '{0,0,0,0,0}',
    communication star_counts NOT NULL DEFAULT '{0,0,0,0,0}',
    location      star_counts NOT NULL DEFAULT '{0,0,0,0,0}',
    value         star_counts NOT NULL DEFAULT '{0,0,0,0,0}',
    CONSTRAINT ratings_pkey PRIMARY KEY (subject, subject_id)
);

-- Stays that ended in the last two weeks can be reviewed as well; what is written is published when the time is over.
INSERT INTO review_windows (booking_id, opened_at, closes_at)
SELECT bookings.id, ended.at, (ended.at AT TIME ZONE time_zone + interval '14 days') AT TIME ZONE time_zone
FROM bookings JOIN LATERAL (
    SELECT max(at) AS at FROM booking_events WHERE booking_id = bookings.id AND event = 'checked_out' AND accepted) AS ended ON ended.at > now() - interval '13 days'
WHERE state = 'checked_out';
INSERT INTO jobs (id, kind, queue, priority, args, max_attempts, state, run_at)
SELECT gen_random_uuid(), 'review.publish', 'confirmation', 60, jsonb_build_object('booking_id', booking_id), 100, 'scheduled', closes_at
FROM review_windows;
