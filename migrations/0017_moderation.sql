-- What moderators decided, for good: hiding is taken back by another decision, never by forgetting the first.
CREATE TABLE review_decisions (
    id           uuid        CONSTRAINT review_decisions_pkey PRIMARY KEY,
    review_id    uuid        NOT NULL CONSTRAINT review_decisions_review REFERENCES reviews (id),
    moderator_id uuid        NOT NULL CONSTRAINT review_decisions_moderator REFERENCES users (id),
    decision     text        NOT NULL CONSTRAINT review_decisions_known CHECK (decision IN ('hide', 'unhide', 'dismiss')),
    reason       text        NOT NULL CONSTRAINT review_decisions_reason_length CHECK (char_length(reason) BETWEEN 1 AND 500),
    created_at   timestamptz NOT NULL
);
CREATE INDEX review_decisions_by_review ON review_decisions (review_id, id);

-- A report is open until a moderator decides about its review.
ALTER TABLE review_reports ADD COLUMN decision_id uuid CONSTRAINT review_reports_decision REFERENCES review_decisions (id);
CREATE INDEX review_reports_open ON review_reports (created_at, review_id, reporter_id) WHERE decision_id IS NULL;
CREATE INDEX review_reports_open_by_reason ON review_reports (reason, created_at, review_id, reporter_id) WHERE decision_id IS NULL;
CREATE INDEX review_reports_decided ON review_reports (decision_id) WHERE decision_id IS NOT NULL;

-- What was hidden before there was this table.
INSERT INTO review_decisions (id, review_id, moderator_id, decision, reason, created_at)
SELECT gen_random_uuid(), id, hidden_by, 'hide', coalesce(nullif(left(hidden_reason, 500), ''), 'not told'), hidden_at FROM reviews WHERE hidden_at IS NOT NULL;
UPDATE review_reports SET decision_id = review_decisions.id FROM review_decisions WHERE review_decisions.review_id = review_reports.review_id;
