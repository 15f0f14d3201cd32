-- Reads the state of the server and of the index of a sale at one instant.
--
-- KEYS  the sale's m
-- ARGV  the prefixes of the sale's u:<epoch> and l:<epoch>
-- Reply {'master' or 'replica', replication id, unix ms}; with an index also its fields in the order below, buyers, length of the outbox
local replication = redis.call('INFO', 'replication')
local time = redis.call('TIME')
local reply = {
  string.find(replication, 'role:master', 1, true) and 'master' or 'replica',
  string.match(replication, 'master_replid:(%x+)') or '',
  string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)),
}
local fields = {'epoch', 'rid', 'version', 'state', 'total', 'left', 'seq', 'opens', 'closes', 'limit',
  'max_per_order', 'orders_ever_max', 'buyer_live_max', 'buyer_ever_max', 'ever', 'adjusted',
  'tiers', 'taken'}
local m = redis.call('HMGET', KEYS[1], unpack(fields))
if not m[1] then return reply end
for i = 1, #fields do reply[#reply + 1] = m[i] or '' end
reply[#reply + 1] = string.format('%.0f', redis.call('HLEN', ARGV[1] .. m[1]))
reply[#reply + 1] = string.format('%.0f', redis.call('XLEN', ARGV[2] .. m[1]))
return reply
