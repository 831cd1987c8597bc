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
-- KEYS[9]  bookings  hash    booking id -> record
-- KEYS[10] wakeups   zset    event id scored by its earliest deadline
-- KEYS[11] live      set     events whose state is in Redis
-- KEYS[12] trail     stream  what became of holds, for the history in Postgres
-- KEYS[13] waitlist  zset    entry scored by priority and time
-- KEYS[14] entries   hash    entry -> what it waits for, and who
-- KEYS[15] wanted    hash    what the line waits for -> by how many entries
-- KEYS[16] notices   hash    entry -> what Postgres has yet to hear of it
-- KEYS[17] lines     set     events that somebody is in line for
-- KEYS[18] removed   stream  bookings that have gone, for audits under way
--
-- ARGV[1]  event_id
-- ARGV[2]  epoch      raised in Postgres for this load
-- ARGV[3]  rows       the index of neighbours, packed
-- ARGV[4]  cells      seats x legs
-- ARGV[5]  history    '1' where the history of holds is kept: begins the trail if there is none; else '0'
-- ARGV[6]  fields     the state's fields and values, from here on
--
-- Returns {'LOADING'}
--         {'STALE'}   this epoch or a later one is there, or is being loaded

--- @include clock
--- @include server
--- @keys

local event_id, epoch, rows, cells = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local keeps_history = ARGV[5] == '1'
local FIRST_FIELD, FIELDS_PER_COMMAND = 6, 2000

local known = tonumber(redis.call('HGET', keys.state, 'epoch') or 0) or 0 -- what is no number is damage: build anew
local loading = tonumber(redis.call('HGET', keys.loading, 'epoch') or 0)
if known >= epoch or loading > epoch then
  return { 'STALE' }
elseif loading == epoch then
  return { 'LOADING' } -- begun already: a call that comes twice must not throw away what was loaded meanwhile
end

-- Nothing below refuses.
-- A load that was left in the middle has removed the state and remembers its seq.
local seq = tonumber(redis.call('HGET', keys.state, 'seq') or redis.call('HGET', keys.loading, 'seq') or 0) or 0
-- How holds and refused bookings have ended stays remembered: it is as true as before, and somebody may still ask.
-- Whatever was held is held no longer. Told with the time that the event's own clock has come to, as its holds are.
local now = math.max(read_clock(), tonumber(redis.call('HGET', keys.state, 'clock') or 0) or 0)
local line = '|rebuilt|' .. now .. '|' .. now .. '|0||'
if keeps_history then
  redis.call('XADD', keys.trail, '*', keys.state, line)
else
  redis.call('XADD', keys.trail, 'NOMKSTREAM', '*', keys.state, line)
end
redis.call('UNLINK', keys.loading, keys.state, keys.held, keys.sold, keys.holds, keys.expiries, keys.users, keys.rows,
  keys.bookings, keys.waitlist, keys.entries, keys.wanted, keys.notices, keys.removed)
redis.call('ZREM', keys.wakeups, event_id)
redis.call('SREM', keys.live, event_id)
redis.call('SREM', keys.lines, event_id)
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
