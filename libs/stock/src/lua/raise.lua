-- Adds units if the total is greater than the current one, like `StockAdjustment::Raise` in
-- libs/protocol/src/adjustment.rs.
--
-- KEYS  the sale's m
-- ARGV  epoch in force at the offset of the TOTAL, total
-- Reply 'done' | 'already' | 'notyet' | 'replica'
local replication = redis.call('INFO', 'replication')
if not string.find(replication, 'role:master', 1, true) then return 'replica' end
local m = redis.call('HMGET', KEYS[1], 'epoch', 'rid', 'left', 'total')
if not m[1] then return 'notyet' end
if string.match(replication, 'master_replid:(%x+)') ~= m[2] then return 'notyet' end
if tonumber(m[1]) < tonumber(ARGV[1]) then return 'notyet' end
local more = tonumber(ARGV[2]) - tonumber(m[4])
if more <= 0 then return 'already' end
redis.call('HSET', KEYS[1], 'total', ARGV[2], 'left', string.format('%.0f', tonumber(m[3]) + more))
return 'done'
