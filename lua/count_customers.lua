#!lua
-- count_customers: add to what customers have booked who have perhaps been sent by this load before.
--
-- KEYS[1]  loading    hash    the state while it is being loaded
-- KEYS[2]  new_users  hash    the future users, of this load
--
-- ARGV[1]  epoch      of the load
-- ARGV[2]  number     of this call in the load, from 1 on; one is answered before the next one is sent
-- ARGV[3]  ttl_s      as that of the load's other commands
-- ARGV[4]  customers  and how many places to add to each, from here on; two thousand of both at most
--
-- Returns {'COUNTED'}
--         {'STALE'}   another load has begun since

--- @keys

local epoch, number, ttl_s = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local FIRST_CUSTOMER = 4

local known = redis.call('HMGET', keys.loading, 'epoch', 'counted')
if known[1] ~= epoch then
  return { 'STALE' }
elseif number <= tonumber(known[2] or 0) then
  return { 'COUNTED' } -- its reply was lost: it must not count twice
end

-- Nothing below refuses.
local names, fields = {}, {}
for i = FIRST_CUSTOMER, #ARGV, 2 do
  names[#names + 1] = ARGV[i]
end
local before = redis.call('HMGET', keys.new_users, unpack(names))
for i, name in ipairs(names) do
  fields[2 * i - 1], fields[2 * i] = name, ARGV[FIRST_CUSTOMER + 2 * i - 1] + (before[i] or 0)
end
-- How many of them are new, because their hash is another's, adopt_bookings must know.
redis.call('HINCRBY', keys.loading, 'added', redis.call('HSET', keys.new_users, unpack(fields)))
redis.call('EXPIRE', keys.new_users, ttl_s)
redis.call('HSET', keys.loading, 'counted', number)
return { 'COUNTED' }
