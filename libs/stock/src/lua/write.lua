-- Writes buyers with all their holdings under u:<epoch> of an index that is not in force yet, and counts them.
--
-- Each buyer is written once. A call with a buyer that is there is not counted, so install.lua refuses the index.
--
-- KEYS  the sale's u:<epoch>, w:<epoch>
-- ARGV  number of orders, units of the live ones; for each buyer: buyer, holdings
-- Reply 'ok' | 'twice'
if redis.call('HSET', KEYS[1], unpack(ARGV, 3)) ~= (#ARGV - 2) / 2 then return 'twice' end
redis.call('HINCRBY', KEYS[2], 'orders', ARGV[1])
redis.call('HINCRBY', KEYS[2], 'units', ARGV[2])
return 'ok'
