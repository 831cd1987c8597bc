#!lua
-- mark_audited: note that an event's state was held against the ledger, on this server.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
--
-- ARGV[1]  epoch      that the audit was of
-- ARGV[2]  server     replication id of the server that the audit began on
--
-- Returns {'MARKED'}
--         {'STALE'}        the state has been built anew since, or another server has taken over
--         {'NOT_LOADED'}   the event's state is not in Redis

--- @include server
--- @keys

local epoch, server = ARGV[1], ARGV[2]

local known = redis.call('HGET', keys.state, 'epoch')
if not known then
  return { 'NOT_LOADED' }
elseif known ~= epoch or server ~= server_id() then
  return { 'STALE' }
end

-- Nothing below refuses.
redis.call('HSET', keys.state, 'audited', server)
return { 'MARKED' }
