#!lua
-- set_status: open or close an event for sale.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
--
-- ARGV[1]  status     'open', 'closed' or 'cancelled'
-- ARGV[2]  closes     ms at which sale ends by itself
-- ARGV[3]  version    of the event; an older one changes nothing
--
-- Returns {'SET', seq}
--         {'OLDER'}        Redis knows a later version
--         {'NOT_LOADED'}   the event's state is not in Redis

--- @keys

local status, closes, version = ARGV[1], ARGV[2], tonumber(ARGV[3])

local known, has_status, epoch = unpack(redis.call('HMGET', keys.state, 'version', 'status', 'epoch'))
if not known or not has_status or not epoch then
  return { 'NOT_LOADED' } -- or a rebuild has closed it, and will read of the ledger what is said here: so it stays
elseif tonumber(known) > version then
  return { 'OLDER' }
end
local seq = redis.call('HINCRBY', keys.state, 'seq', 1)
redis.call('HSET', keys.state, 'status', status, 'closes', closes, 'version', version)
return { 'SET', seq }
