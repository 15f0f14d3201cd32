-- Decides a batch of purchases on the index of one sale, like `purchase` in libs/protocol/src/index.rs.
--
-- KEYS  the sale's m, u:<epoch>, l:<epoch>
-- ARGV  epoch of the caller; for each request: buyer, quantity (0 = lookup), tier, key
-- Reply {'replica'} | {'stale'} | {'refresh', epoch} | {'ok', first seq, the answers, separated by commas}
--
-- An answer is a letter and its data: 's' reserved, with the next seq; 'h <holding>' already reserved, 'u' unknown,
-- 'q <most>' quantity too large, 'n <opens>' not started, 'e' ended, 'p' suspended, 'l <holding or nothing>' limit
-- reached, 'm' too many orders of the buyer, 'x' orders of the sale exhausted, 'o <left>[ <release>]' sold out for this
-- buyer, with the time at which units may be released.
--
-- '..' writes a seq exactly, because it is below 10^14: an epoch has at most 2^28 orders. Larger numbers use '%.0f'.

-- The fence. The index counts only after this check. The script cache and the run id do not change when a server comes
-- back with an older copy; the replication id does. The role is first: what a replica holds says nothing.
local replication = redis.call('INFO', 'replication')
if not string.find(replication, 'role:master', 1, true) then return {'replica'} end
local m = redis.call('HMGET', KEYS[1], 'epoch', 'rid', 'state', 'left', 'seq', 'opens', 'closes', 'limit',
  'max_per_order', 'orders_ever_max', 'buyer_live_max', 'buyer_ever_max', 'ever', 'tiers', 'taken')
if not m[1] then return {'stale'} end
if string.match(replication, 'master_replid:(%x+)') ~= m[2] then return {'stale'} end
local epoch = m[1]
if ARGV[1] ~= epoch then
  if tonumber(ARGV[1]) < tonumber(epoch) then return {'refresh', epoch} end
  return {'stale'}
end

local state, left, seq = m[3], tonumber(m[4]), tonumber(m[5])
local closes = tonumber(m[7])
local general = {opens = tonumber(m[6]), not_started = 'n ' .. m[6], limit = tonumber(m[8])}
-- A bound of 0 is none. An index of an earlier version has no bounds and does not count its orders.
local max_per_order, orders_ever_max = tonumber(m[9]) or 0, tonumber(m[10]) or 0
local buyer_live_max, buyer_ever_max = tonumber(m[11]) or 0, tonumber(m[12]) or 0
local ever = tonumber(m[13])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- Of each tier by its number: its terms, and its live units. A sale without tiers has neither.
local tiers, taken
if m[14] then
  tiers = {}
  local n = 0
  for opens, most, reserved, release in string.gmatch(m[14], '(%d+) (%d+) (%d+) (%d+)') do
    tiers[n] = {opens = tonumber(opens), not_started = 'n ' .. opens, limit = tonumber(most),
      reserved = tonumber(reserved), release = tonumber(release)}
    n = n + 1
  end
end
if m[15] then
  taken = {}
  local n = 0
  for units in string.gmatch(m[15], '%d+') do
    taken[n] = tonumber(units)
    n = n + 1
  end
end

-- The units that a buyer of a tier can have, and the next release of a reserve that keeps some from that buyer.
local function available(tier)
  local kept, next = 0, nil
  for n, of in pairs(tiers) do
    local units = of.reserved - (taken and taken[n] or 0)
    if n ~= tier and now < of.release and units > 0 then
      kept = kept + units
      next = math.min(next or of.release, of.release)
    end
  end
  return math.max(left - kept, 0), next
end

local buyers = {}
for i = 2, #ARGV, 4 do buyers[#buyers + 1] = ARGV[i] end
local found = redis.call('HMGET', KEYS[2], unpack(buyers))
local held, changed = {}, {}
for i, buyer in ipairs(buyers) do held[buyer] = found[i] or '' end

local first, orders, reply = seq + 1, {}, {}
local sold_out

local function decide(buyer, wanted, tier, key)
  local holdings, quantity = held[buyer], tonumber(wanted)
  local count, alive, units, live = 0, 0, 0, nil
  if holdings ~= '' then
    for holding, q, k, x in string.gmatch(holdings, '(%d+%.%d+%.(%d+)%.(%x+)[t%d]*(x?))') do
      -- Check for a retry first: a buyer with an order never gets "ended" or "sold out".
      if k == key then return 'h ' .. holding end
      count = count + 1
      if x == '' then
        alive = alive + 1
        units = units + tonumber(q)
        live = live or holding
      end
    end
  end
  if quantity == 0 then return 'u' end
  if max_per_order > 0 and quantity > max_per_order then return 'q ' .. m[9] end
  if state == 'closed' or now >= closes then return 'e' end
  local of = tiers and (tiers[tonumber(tier)] or tiers[0]) or general
  if now < of.opens then return of.not_started end
  if state ~= 'open' then return 'p' end
  if buyer_live_max > 0 and alive >= buyer_live_max then return 'm' end
  if buyer_ever_max > 0 and count >= buyer_ever_max then return 'm' end
  if of.limit > 0 and units + quantity > of.limit then return 'l ' .. (live or '') end
  -- Before "sold out": a unit that comes back could not be sold.
  if ever and orders_ever_max > 0 and ever >= orders_ever_max then return 'x' end
  if tiers then
    local units_left, release = available(tonumber(tier))
    if units_left < quantity then
      return 'o ' .. string.format('%.0f', units_left) .. (release and string.format(' %.0f', release) or '')
    end
  elseif left < quantity then
    sold_out = sold_out or 'o ' .. string.format('%.0f', left)
    return sold_out
  end
  left, sold_out = left - quantity, nil
  seq = seq + 1
  if ever then ever = ever + 1 end
  local by = taken and taken[tonumber(tier)]
  if by then taken[tonumber(tier)] = by + quantity end
  local holding = epoch .. '.' .. seq .. '.' .. wanted .. '.' .. key
  if tier ~= '0' then holding = holding .. 't' .. tier end
  if holdings == '' then held[buyer] = holding else held[buyer] = holdings .. ' ' .. holding end
  changed[buyer] = true
  orders[#orders + 1] = '["' .. buyer .. '",' .. wanted .. ',' .. tier .. ',"' .. key .. '"]'
  return 's'
end

for i = 2, #ARGV, 4 do
  reply[#reply + 1] = decide(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
end

if #orders > 0 then
  -- The command that can fail (memory, too few replicas) is first, because Lua does not roll back.
  redis.call('XADD', KEYS[3], string.format('%s-%.0f', epoch, seq),
    'at', string.format('%.0f', now), 'first', string.format('%.0f', first), 'orders', '[' .. table.concat(orders, ',') .. ']')
  local fields = {}
  for buyer in pairs(changed) do
    fields[#fields + 1] = buyer
    fields[#fields + 1] = held[buyer]
  end
  redis.call('HSET', KEYS[2], unpack(fields))
  local figures = {'left', string.format('%.0f', left), 'seq', string.format('%.0f', seq)}
  if ever then figures[5], figures[6] = 'ever', string.format('%.0f', ever) end
  if taken then
    figures[#figures + 1] = 'taken'
    figures[#figures + 1] = table.concat(taken, ' ', 0)
  end
  redis.call('HSET', KEYS[1], unpack(figures))
end
return {'ok', string.format('%.0f', first), table.concat(reply, ',')}
