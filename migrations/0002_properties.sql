-- Equality on property_id inside the GiST exclusion constraint of bookings.
CREATE EXTENSION IF NOT EXISTS btree_gist;

CREATE TABLE properties (
    id                  uuid             PRIMARY KEY,
    host_id             uuid             NOT NULL CONSTRAINT properties_host REFERENCES users (id),
    title               text             NOT NULL,
    description         text             NOT NULL,
    city                text             NOT NULL,
    country             text             NOT NULL, -- ISO 3166-1 alpha-2
    latitude            double precision NOT NULL CONSTRAINT properties_latitude_range CHECK (latitude BETWEEN -90 AND 90),
    longitude           double precision NOT NULL CONSTRAINT properties_longitude_range CHECK (longitude BETWEEN -180 AND 180),
    time_zone           text             NOT NULL, -- IANA name
    currency            text             NOT NULL CONSTRAINT properties_currency_code CHECK (currency ~ '^[A-Z]{3}$'),
    nightly_rate_minor  bigint           NOT NULL CONSTRAINT properties_nightly_rate_positive CHECK (nightly_rate_minor > 0),
    cleaning_fee_minor  bigint           NOT NULL CONSTRAINT properties_cleaning_fee_not_negative CHECK (cleaning_fee_minor >= 0),
    max_guests          int              NOT NULL CONSTRAINT properties_max_guests_positive CHECK (max_guests > 0),
    bedrooms            int              NOT NULL,
    beds                int              NOT NULL,
    bathrooms           int              NOT NULL,
    amenities           text[]           NOT NULL,
    house_rules         text             NOT NULL,
    check_in_from       time             NOT NULL,
    check_out_by        time             NOT NULL,
    min_nights          int              NOT NULL CONSTRAINT properties_min_nights_positive CHECK (min_nights > 0),
    max_nights          int              NOT NULL,
    instant_book        boolean          NOT NULL,
    cancellation_policy text             NOT NULL CONSTRAINT properties_policy_known CHECK (cancellation_policy IN ('flexible', 'moderate', 'limited', 'firm')),
    status              text             NOT NULL CONSTRAINT properties_status_known CHECK (status IN ('draft', 'listed', 'archived')),
    -- The mean of published reviews in hundredths of a star (0 without reviews): an integer sorts and pages exactly.
    rating_hundredths   int              NOT NULL DEFAULT 0 CONSTRAINT properties_rating_range CHECK (rating_hundredths BETWEEN 0 AND 500),
    review_count        int              NOT NULL DEFAULT 0,
    version             int              NOT NULL DEFAULT 1,
    created_at          timestamptz      NOT NULL,
    updated_at          timestamptz      NOT NULL,
    CONSTRAINT properties_nights_order CHECK (max_nights >= min_nights)
);
-- The public list: the best rated first, then by id; the rating negated, so that one row comparison finds the next
-- page. In one city, in one country or everywhere. What a search filters by is carried along, so that an index-only
-- scan finds the page and only what is on it is read from the table.
CREATE INDEX properties_by_city ON properties (lower(city), (-rating_hundredths), id)
    INCLUDE (city, rating_hundredths, country, currency, nightly_rate_minor, max_guests, bedrooms, min_nights, max_nights, instant_book)
    WHERE status = 'listed';
CREATE INDEX properties_by_country ON properties (country, (-rating_hundredths), id)
    INCLUDE (rating_hundredths, currency, nightly_rate_minor, max_guests, bedrooms, min_nights, max_nights, instant_book)
    WHERE status = 'listed';
CREATE INDEX properties_by_rating ON properties ((-rating_hundredths), id)
    INCLUDE (rating_hundredths, currency, nightly_rate_minor, max_guests, bedrooms, min_nights, max_nights, instant_book)
    WHERE status = 'listed';
-- For the rare amenity; a common one is met soon on the way through the others.
CREATE INDEX properties_by_amenity ON properties USING gin (amenities) WHERE status = 'listed';
-- For a narrow range of prices.
CREATE INDEX properties_by_price ON properties (nightly_rate_minor) WHERE status = 'listed';
-- A host's own, drafts and archived ones as well.
CREATE INDEX properties_by_host ON properties (host_id, (-rating_hundredths), id);
