-- The fence of the next claim of a job: higher than any before it, and never one that was given out. Claims are committed
-- without waiting for the disk, so a crash of Postgres can forget one whose worker goes on; counting on from the last one that
-- is known would give its number to somebody else. The time in microseconds does not come again.
CREATE FUNCTION next_fence(last bigint) RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN greatest(last + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
