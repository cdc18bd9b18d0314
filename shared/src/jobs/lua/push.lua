-- Appends messages to a queue as apalis-redis keeps them, as far as there is room, and rings the doorbell.
-- KEYS: active list, scheduled set, data hash. ARGV: most messages, prefix of the metadata, doorbell, then id and message in turn.
-- Straight to the active list: through the scheduled set, the clocks of those who push and fetch would decide when.
local room = tonumber(ARGV[1]) - redis.call('llen', KEYS[1]) - redis.call('zcard', KEYS[2])
local pushed = 0
for i = 4, #ARGV, 2 do
    if pushed >= room then
        break
    end
    redis.call('hset', KEYS[3], ARGV[i], ARGV[i + 1])
    redis.call('hset', ARGV[2] .. ':' .. ARGV[i], 'attempts', 0, 'max_attempts', 1, 'status', 'Pending')
    redis.call('rpush', KEYS[1], ARGV[i])
    pushed = pushed + 1
end
if pushed > 0 then
    redis.call('publish', ARGV[3], pushed)
end
return pushed
