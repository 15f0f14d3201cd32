-- Returns the units of a cancelled order once, like `StockAdjustment::Return` in libs/protocol/src/adjustment.rs.
--
-- KEYS  the sale's m
-- ARGV  epoch in force at the offset of the CANCEL, prefix of the sale's u:<epoch>, buyer, epoch and sequence number of
--       the order
-- Reply 'done' | 'already' | 'notyet' | 'replica' | 'nosuchorder'
local replication = redis.call('INFO', 'replication')
if not string.find(replication, 'role:master', 1, true) then return 'replica' end
local m = redis.call('HMGET', KEYS[1], 'epoch', 'rid', 'left')
if not m[1] then return 'notyet' end
if string.match(replication, 'master_replid:(%x+)') ~= m[2] then return 'notyet' end
-- This index may have been made from a shorter part of the log. A newer one is being made.
if tonumber(m[1]) < tonumber(ARGV[1]) then return 'notyet' end

local u = ARGV[2] .. m[1]
local held, found = {}, nil
for holding in string.gmatch(redis.call('HGET', u, ARGV[3]) or '', '[^ ]+') do
  local epoch, seq, quantity, x = string.match(holding, '^(%d+)%.(%d+)%.(%d+)%.%x+(x?)$')
  if epoch == ARGV[4] and seq == ARGV[5] then
    if x == 'x' then return 'already' end
    found = tonumber(quantity)
    holding = holding .. 'x'
  end
  held[#held + 1] = holding
end
if not found then return 'nosuchorder' end
redis.call('HSET', u, ARGV[3], table.concat(held, ' '))
redis.call('HSET', KEYS[1], 'left', string.format('%.0f', tonumber(m[3]) + found))
return 'done'
