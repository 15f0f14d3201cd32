-- Reads the oldest entries of the outbox of an epoch.
--
-- KEYS  the sale's m, l:<epoch>
-- ARGV  epoch, start, maximum of entries
-- Reply {'replica'} | {'ok', entries}; with 'stale' in place of 'ok' if no index of that epoch or a newer one is
-- in force here. Its entries may still be missing in the log.
local replication = redis.call('INFO', 'replication')
if not string.find(replication, 'role:master', 1, true) then return {'replica'} end
local m = redis.call('HMGET', KEYS[1], 'epoch', 'rid')
local rid = string.match(replication, 'master_replid:(%x+)')
local answer = 'stale'
if m[1] and rid == m[2] and tonumber(m[1]) >= tonumber(ARGV[1]) then answer = 'ok' end
return {answer, redis.call('XRANGE', KEYS[2], ARGV[2], '+', 'COUNT', ARGV[3])}
