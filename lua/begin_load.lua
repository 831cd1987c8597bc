#!lua
-- begin_load: forget an event and start to build it anew under a new epoch.
--
-- KEYS[1]  loading   hash    the state while it is being loaded
-- KEYS[2]  state     hash    the event's counters, limits and deadlines
-- KEYS[3]  held      bitmap  cell = seat index x legs + leg
-- KEYS[4]  sold      bitmap  the same
-- KEYS[5]  holds     hash    hold id -> record
-- KEYS[6]  expiries  zset    hold id scored by deadline_ms
-- KEYS[7]  users     hash    customer -> places claimed
-- KEYS[8]  rows      string  index of neighbours
-- KEYS[9]  ended     hash    how the last holds ended
-- KEYS[10] bookings  hash    booking id -> record
-- KEYS[11] wakeups   zset    event id scored by its earliest deadline
-- KEYS[12] live      set     events whose state is in Redis
--
-- ARGV[1]  event_id
-- ARGV[2]  epoch      raised in Postgres for this load
-- ARGV[3]  rows       the index of neighbours, packed
-- ARGV[4]  cells      seats x legs
-- ARGV[5]  fields     the state's fields and values, from here on
--
-- Returns {'LOADING'}
--         {'STALE'}   this epoch or a later one is there, or is being loaded

--- @include server
--- @keys

local event_id, epoch, rows, cells = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local FIRST_FIELD, FIELDS_PER_COMMAND = 5, 2000

local known = tonumber(redis.call('HGET', keys.state, 'epoch') or 0)
local loading = tonumber(redis.call('HGET', keys.loading, 'epoch') or 0)
if known >= epoch or loading > epoch then
  return { 'STALE' }
elseif loading == epoch then
  return { 'LOADING' } -- begun already: a call that comes twice must not throw away what was loaded meanwhile
end

-- Nothing below refuses.
-- A load that was left in the middle has removed the state and remembers its seq.
local seq = tonumber(redis.call('HGET', keys.state, 'seq') or redis.call('HGET', keys.loading, 'seq') or 0)
redis.call('UNLINK', keys.loading, keys.state, keys.held, keys.sold, keys.holds, keys.expiries, keys.users, keys.rows,
  keys.ended, keys.bookings)
redis.call('ZREM', keys.wakeups, event_id)
redis.call('SREM', keys.live, event_id)
redis.call('HSET', keys.loading, 'event', event_id, 'epoch', epoch, 'seq', seq + 1, 'audited', server_id())
for start = FIRST_FIELD, #ARGV, FIELDS_PER_COMMAND do
  redis.call('HSET', keys.loading, unpack(ARGV, start, math.min(start + FIELDS_PER_COMMAND - 1, #ARGV)))
end
if cells > 0 then
  -- The last cell first: the bitmaps get their full size now and never move in memory again.
  redis.call('SETBIT', keys.held, cells - 1, 0)
  redis.call('SETBIT', keys.sold, cells - 1, 0)
  redis.call('SET', keys.rows, rows)
end
return { 'LOADING' }
