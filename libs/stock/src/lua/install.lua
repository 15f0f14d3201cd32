-- Puts an index in force whose holdings were written under u:<epoch>. It runs at most once for an epoch. A caller that
-- does not know whether it ran starts again with a new barrier.
--
-- KEYS  the sale's m, u:<epoch>
-- ARGV  epoch, number of buyers in u, of their orders, total, left, version, state, opens, closes, limit, max_per_order,
--       orders_ever_max, buyer_live_max, buyer_ever_max
-- Reply 'ok' | the reason of the refusal
local replication = redis.call('INFO', 'replication')
if not string.find(replication, 'role:master', 1, true) then return 'this server is a replica' end
local rid = string.match(replication, 'master_replid:(%x+)')
if not rid or string.match(rid, '^0*$') then return 'this server has no replication id' end
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch and tonumber(epoch) >= tonumber(ARGV[1]) then return 'an index of epoch ' .. epoch .. ' is in force' end
local holders = redis.call('HLEN', KEYS[2])
-- The written holdings are gone or incomplete: the server restarted or failed over in between.
if holders ~= tonumber(ARGV[2]) then return 'only ' .. holders .. ' of ' .. ARGV[2] .. ' buyers are there' end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'rid', rid, 'total', ARGV[4], 'left', ARGV[5], 'seq', '0',
  'ever', ARGV[3], 'adjusted', ARGV[1],
  'version', ARGV[6], 'state', ARGV[7], 'opens', ARGV[8], 'closes', ARGV[9], 'limit', ARGV[10],
  'max_per_order', ARGV[11], 'orders_ever_max', ARGV[12], 'buyer_live_max', ARGV[13], 'buyer_ever_max', ARGV[14])
return 'ok'
