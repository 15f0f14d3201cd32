-- Applies stock adjustments of one sale in the order of the log, like `apply_adjustments` in
-- libs/protocol/src/adjustment.rs: a cancelled order returns its units once, a raised total adds units.
--
-- KEYS  the sale's m
-- ARGV  prefix of the sale's u:<epoch>; for each adjustment: its offset, the epoch in force there, and
--       'return', buyer, epoch, seq | 'raise', total, '', '' | 'pass', '', '', ''
-- Reply {'replica'} | {'ok' or, if one has to wait, 'notyet', a letter for each adjustment up to that one}: 'd' done,
--       'a' already, 'u' no such order, 'w' not yet
local replication = redis.call('INFO', 'replication')
if not string.find(replication, 'role:master', 1, true) then return {'replica'} end
local m = redis.call('HMGET', KEYS[1], 'epoch', 'rid', 'left', 'total', 'adjusted', 'taken')
if not m[1] or string.match(replication, 'master_replid:(%x+)') ~= m[2] then return {'notyet', 'w'} end

local epoch, left, total = tonumber(m[1]), tonumber(m[3]), tonumber(m[4])
-- An index of an earlier version has no such field, and gets none.
local adjusted = tonumber(m[5])
-- The live units of each tier by its number, if the sale has tiers.
local taken
if m[6] then
  taken = {}
  local n = 0
  for units in string.gmatch(m[6], '%d+') do
    taken[n] = tonumber(units)
    n = n + 1
  end
end
local u = ARGV[1] .. m[1]
local held, changed = {}, {}

-- Marks the holding of a buyer. Epoch and seq are compared: the same seq in another epoch is another order.
local function cancel(buyer, of_epoch, seq)
  local all = held[buyer] or redis.call('HGET', u, buyer) or ''
  local texts, quantity, tier = {}, nil, nil
  for holding in string.gmatch(all, '[^ ]+') do
    local e, s, q, t, x = string.match(holding, '^(%d+)%.(%d+)%.(%d+)%.%x+t?(%d*)(x?)$')
    if e == of_epoch and s == seq then
      if x == 'x' then return 'a' end
      quantity, tier = tonumber(q), tonumber(t) or 0
      holding = holding .. 'x'
    end
    texts[#texts + 1] = holding
  end
  if not quantity then return 'u' end
  held[buyer], changed[buyer] = table.concat(texts, ' '), true
  left = left + quantity
  local by = taken and taken[tier]
  if by then taken[tier] = math.max(by - quantity, 0) end
  return 'd'
end

local function apply(kind, first, second, third)
  if kind == 'return' then return cancel(first, second, third) end
  if kind == 'pass' then return 'a' end
  local more = tonumber(first) - total
  if more <= 0 then return 'a' end
  left, total = left + more, total + more
  return 'd'
end

local word, reply, any = 'ok', {}, false
for i = 2, #ARGV, 6 do
  -- This index may have been made from a shorter part of the log. A newer one is being made.
  if epoch < tonumber(ARGV[i + 1]) then
    word, reply[#reply + 1] = 'notyet', 'w'
    break
  end
  reply[#reply + 1] = apply(ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5])
  if adjusted then adjusted = math.max(adjusted, tonumber(ARGV[i])) end
  any = true
end
if not any then return {word, table.concat(reply)} end

local fields = {}
for buyer in pairs(changed) do
  fields[#fields + 1] = buyer
  fields[#fields + 1] = held[buyer]
end
if #fields > 0 then redis.call('HSET', u, unpack(fields)) end
local figures = {'left', string.format('%.0f', left), 'total', string.format('%.0f', total)}
if adjusted then figures[5], figures[6] = 'adjusted', string.format('%.0f', adjusted) end
if taken then
  figures[#figures + 1] = 'taken'
  figures[#figures + 1] = table.concat(taken, ' ', 0)
end
redis.call('HSET', KEYS[1], unpack(figures))
return {word, table.concat(reply)}
