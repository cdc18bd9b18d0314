-- Values in the arguments of jobs, for finding the jobs about a booking, a payment, a user. A job is written three times in its
-- life and its arguments once, so they are not among the indexes of jobs; and ids sort by time, so the newest come first.
CREATE TABLE job_terms (
    term   text NOT NULL,
    job_id uuid NOT NULL,
    CONSTRAINT job_terms_pkey PRIMARY KEY (term, job_id)
);

CREATE FUNCTION job_terms_of(args jsonb) RETURNS SETOF text LANGUAGE sql IMMUTABLE AS $$
    SELECT DISTINCT left(value #>> '{}', 100) FROM jsonb_each(CASE WHEN jsonb_typeof(args) = 'object' THEN args ELSE '{}' END)
    WHERE jsonb_typeof(value) IN ('string', 'number')
$$;

CREATE FUNCTION job_terms_add() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO job_terms (term, job_id) SELECT term, added.id FROM added, job_terms_of(added.args) AS term;
    RETURN NULL;
END $$;
CREATE FUNCTION job_terms_remove() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM job_terms USING removed, job_terms_of(removed.args) AS value WHERE job_terms.term = value AND job_id = removed.id;
    RETURN NULL;
END $$;
CREATE FUNCTION job_terms_replace() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM job_terms USING job_terms_of(OLD.args) AS value WHERE job_terms.term = value AND job_id = OLD.id;
    INSERT INTO job_terms (term, job_id) SELECT term, NEW.id FROM job_terms_of(NEW.args) AS term;
    RETURN NULL;
END $$;
CREATE TRIGGER job_terms_added AFTER INSERT ON jobs REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION job_terms_add();
CREATE TRIGGER job_terms_removed AFTER DELETE ON jobs REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION job_terms_remove();
CREATE TRIGGER job_terms_replaced AFTER UPDATE OF args ON jobs
    FOR EACH ROW WHEN (OLD.args IS DISTINCT FROM NEW.args) EXECUTE FUNCTION job_terms_replace();

INSERT INTO job_terms (term, job_id) SELECT term, jobs.id FROM jobs, job_terms_of(jobs.args) AS term;

DROP INDEX jobs_by_args;
-- Few jobs run at a time: what a worker runs is found among those that are leased.
DROP INDEX jobs_by_owner;
