#!lua
-- adopt_bookings: make what a load has sent of bookings and customers the event's own, if all of it has arrived.
--
-- KEYS[1]  loading       hash    the state while it is being loaded
-- KEYS[2]  bookings      hash    booking id -> record
-- KEYS[3]  users         hash    customer -> places claimed
-- KEYS[4]  new_bookings  hash    the future bookings, of this load
-- KEYS[5]  new_users     hash    the future users, of this load
--
-- ARGV[1]  epoch      of the load
-- ARGV[2]  count      of bookings that were sent, one at least
-- ARGV[3]  customers  that were sent but for those of count_customers
--
-- Returns {'ADOPTED'}
--         {'INCOMPLETE', bookings, customers}  so many have arrived: the server has lost some of them
--         {'STALE'}                            another load has begun since

--- @keys

local epoch, count, customers = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

if redis.call('HGET', keys.loading, 'epoch') ~= epoch then
  return { 'STALE' }
elseif redis.call('HLEN', keys.bookings) == count then
  return { 'ADOPTED' } -- its reply was lost: begin_load has left nothing there, and nobody sells yet
end
local here, owners = redis.call('HLEN', keys.new_bookings), redis.call('HLEN', keys.new_users)
local added = tonumber(redis.call('HGET', keys.loading, 'added') or 0)
if here ~= count or owners ~= customers + added then
  return { 'INCOMPLETE', here, owners }
end

-- Nothing below refuses.
redis.call('RENAME', keys.new_bookings, keys.bookings)
redis.call('RENAME', keys.new_users, keys.users)
redis.call('PERSIST', keys.bookings)
redis.call('PERSIST', keys.users)
redis.call('HDEL', keys.loading, 'counted', 'added')
return { 'ADOPTED' }
