-- Puts an index in force whose holdings were written under u:<epoch>. It runs at most once for an epoch. A caller that
-- does not know whether it ran starts again with a new barrier.
--
-- KEYS  the sale's m, u:<epoch>, w:<epoch>
-- ARGV  epoch, number of buyers in u, of their orders, total, left, version, state, opens, closes, limit, max_per_order,
--       orders_ever_max, buyer_live_max, buyer_ever_max, tiers ('' = none), live units of each tier ('' = no tiers)
-- Reply 'ok' | 'replica' | the reason of the refusal
local replication = redis.call('INFO', 'replication')
if not string.find(replication, 'role:master', 1, true) then return 'replica' end
local rid = string.match(replication, 'master_replid:(%x+)')
if not rid or string.match(rid, '^0*$') then return 'this server has no replication id' end
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch and tonumber(epoch) >= tonumber(ARGV[1]) then return 'an index of epoch ' .. epoch .. ' is in force' end
-- The written holdings are gone or incomplete: the server restarted or failed over in between.
local holders, written = redis.call('HLEN', KEYS[2]), redis.call('HMGET', KEYS[3], 'orders', 'units')
local orders, units, live = tonumber(written[1] or 0), tonumber(written[2] or 0), tonumber(ARGV[4]) - tonumber(ARGV[5])
if holders ~= tonumber(ARGV[2]) or orders ~= tonumber(ARGV[3]) or units ~= live then
  local counts = '%.0f of %s buyers, %.0f of %s orders and %.0f of %.0f live units are there'
  return string.format(counts, holders, ARGV[2], orders, ARGV[3], units, live)
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'rid', rid, 'total', ARGV[4], 'left', ARGV[5], 'seq', '0',
  'ever', ARGV[3], 'adjusted', ARGV[1],
  'version', ARGV[6], 'state', ARGV[7], 'opens', ARGV[8], 'closes', ARGV[9], 'limit', ARGV[10],
  'max_per_order', ARGV[11], 'orders_ever_max', ARGV[12], 'buyer_live_max', ARGV[13], 'buyer_ever_max', ARGV[14],
  'tiers', ARGV[15], 'taken', ARGV[16])
if ARGV[15] == '' then redis.call('HDEL', KEYS[1], 'tiers') end
if ARGV[16] == '' then redis.call('HDEL', KEYS[1], 'taken') end
redis.call('DEL', KEYS[3])
return 'ok'
