#!lua
-- finish_load: put a loaded event on sale, or to whatever status it has.
--
-- KEYS[1]  loading   hash    the state while it is being loaded
-- KEYS[2]  state     hash    the event's counters, limits and deadlines
-- KEYS[3]  live      set     events whose state is in Redis
--
-- ARGV[1]  event_id
-- ARGV[2]  epoch      of the load
--
-- Returns {'READY', seq}
--         {'STALE'}   another load has begun since

--- @keys

local event_id, epoch = ARGV[1], ARGV[2]

if redis.call('HGET', keys.loading, 'epoch') == epoch then
  redis.call('RENAME', keys.loading, keys.state)
elseif redis.call('HGET', keys.state, 'epoch') ~= epoch then
  return { 'STALE' }
end
redis.call('SADD', keys.live, event_id) -- also when it comes twice: so the reconciler mends an index that lost it
return { 'READY', tonumber(redis.call('HGET', keys.state, 'seq')) }
