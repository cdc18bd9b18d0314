-- Takes what a consumer fetched and did not acknowledge, and forgets the consumer. Returns the messages.
-- KEYS: set of consumers, its in-flight set, data hash, its metadata. ARGV: its name, prefix of the metadata of messages.
local messages = {}
for _, id in ipairs(redis.call('smembers', KEYS[2])) do
    local message = redis.call('hget', KEYS[3], id)
    if message then
        table.insert(messages, message)
    end
    redis.call('hdel', KEYS[3], id)
    redis.call('unlink', ARGV[2] .. ':' .. id)
end
redis.call('unlink', KEYS[2], KEYS[4])
redis.call('zrem', KEYS[1], ARGV[1])
return messages
