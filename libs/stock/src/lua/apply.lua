-- Sets the terms of a sale (state, window, limit, bounds, tiers), if they are newer than those in force.
--
-- KEYS  the sale's m
-- ARGV  epoch, version, state, opens, closes, limit, max_per_order, orders_ever_max, buyer_live_max, buyer_ever_max,
--       tiers ('' = none)
-- Reply 'ok' | 'older' | 'nothere' (no index of that epoch is in force) | 'replica'
local replication = redis.call('INFO', 'replication')
if not string.find(replication, 'role:master', 1, true) then return 'replica' end
local m = redis.call('HMGET', KEYS[1], 'rid', 'version', 'epoch')
if not m[1] or m[3] ~= ARGV[1] then return 'nothere' end
if string.match(replication, 'master_replid:(%x+)') ~= m[1] then return 'nothere' end
if tonumber(ARGV[2]) <= tonumber(m[2]) then return 'older' end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'state', ARGV[3], 'opens', ARGV[4], 'closes', ARGV[5], 'limit', ARGV[6],
  'max_per_order', ARGV[7], 'orders_ever_max', ARGV[8], 'buyer_live_max', ARGV[9], 'buyer_ever_max', ARGV[10],
  'tiers', ARGV[11])
if ARGV[11] == '' then redis.call('HDEL', KEYS[1], 'tiers') end
return 'ok'
