-- Sets the terms of a sale (state, window, limit), if they are newer than those in force.
--
-- KEYS  the sale's m
-- ARGV  version, state, opens, closes, limit
-- Reply 'ok' | 'older' | 'nothere'
local m = redis.call('HMGET', KEYS[1], 'rid', 'version', 'state')
if not m[1] then return 'nothere' end
local replication = redis.call('INFO', 'replication')
if not string.find(replication, 'role:master', 1, true) then return 'nothere' end
if string.match(replication, 'master_replid:(%x+)') ~= m[1] then return 'nothere' end
if tonumber(ARGV[1]) <= tonumber(m[2]) then return 'older' end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'state', ARGV[2], 'opens', ARGV[3], 'closes', ARGV[4], 'limit', ARGV[5])
return 'ok'
