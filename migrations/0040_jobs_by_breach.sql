-- no-transaction
-- What waits to be published, by the instant at which it ought to have begun: its priority is in seconds after it is due. A
-- timestamp with time zone and an interval cannot be added in an index; what has passed since an instant and an interval can.
CREATE INDEX CONCURRENTLY jobs_by_breach ON jobs (queue, (run_at - timestamptz 'epoch' + make_interval(secs => priority)))
    WHERE state = 'queued' AND published_at IS NULL;
