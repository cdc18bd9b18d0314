-- Removes ids whose message or metadata is gone, by eviction or a partial restore: apalis-redis ends over each of them.
-- KEYS: active list, data hash. ARGV: prefix of the metadata. Returns how many.
local ids = redis.call('lrange', KEYS[1], 0, -1)
local whole = {}
for _, id in ipairs(ids) do
    local meta = redis.call('hmget', ARGV[1] .. ':' .. id, 'attempts', 'max_attempts', 'status')
    if redis.call('hexists', KEYS[2], id) == 1 and meta[1] and meta[2] and meta[3] then
        table.insert(whole, id)
    else
        redis.call('hdel', KEYS[2], id)
        redis.call('unlink', ARGV[1] .. ':' .. id)
    end
end
if #whole < #ids then
    redis.call('unlink', KEYS[1])
    for _, id in ipairs(whole) do
        redis.call('rpush', KEYS[1], id)
    end
end
return #ids - #whole
