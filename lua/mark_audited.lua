#!lua
-- mark_audited: remember for which server an event was found, or made, to agree with the ledger.
--
-- KEYS[1] state    hash    the event's counters, limits and deadlines
--
-- ARGV[1] epoch    of the state that was audited
-- ARGV[2] server   `<run id>:<replication id>` of the server that it was read from
--
-- Returns {'MARKED'}
--         {'STALE'}        the event was loaded anew since
--         {'NOT_LOADED'}   the event's state is not in Redis

--- @keys

local epoch, server = ARGV[1], ARGV[2]

local known = redis.call('HGET', keys.state, 'epoch')
if not known then
  return { 'NOT_LOADED' }
elseif known ~= epoch then
  return { 'STALE' }
end

-- Nothing below refuses. What is on sale has not changed: `seq` stays.
redis.call('HSET', keys.state, 'audited', server)
return { 'MARKED' }
