#!lua flags=allow-oom
-- snapshot_event: what is free, held and sold now; lapsed holds do not count.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  held      bitmap  cell = seat index x legs + leg
-- KEYS[3]  sold      bitmap  the same
-- KEYS[4]  holds     hash    hold id -> record
-- KEYS[5]  expiries  zset    hold id scored by deadline_ms
-- KEYS[6]  users     hash    customer -> places claimed
-- KEYS[7]  rows      string  index of neighbours
-- KEYS[8]  ended     hash    how the last holds ended
-- KEYS[9]  wakeups   zset    event id scored by its earliest deadline
-- KEYS[10] trail     stream  what became of holds, for the history in Postgres
--
-- ARGV[1]  cells      '1' to have the bitmaps too, '0' for the counters alone
--
-- Returns {'SNAPSHOT', seq, epoch, status, next_release_ms, {field, value, …}}             the state hash
--         {'SNAPSHOT', seq, epoch, status, next_release_ms, {field, value, …}, held, sold}   with the bitmaps
--         {'CONTINUE'}     lapsed holds were ended, and there are more: call again at once
--         {'NOT_LOADED'}   the event's state is not in Redis

--- @include clock
--- @include event
--- @include places
--- @include rows
--- @include move
--- @include hold
--- @include trail
--- @include release
--- @include reap
--- @keys

local with_cells = ARGV[1] == '1'

local ev = read_event(keys, read_clock())
if not ev then
  return { 'NOT_LOADED' }
end
reap_due(ev)
if ev.due <= ev.now then
  return { 'CONTINUE' }
end
local next_release = ev.due == NEVER and 0 or ev.due
local reply = { 'SNAPSHOT', ev.seq, ev.epoch, ev.status, next_release, redis.call('HGETALL', keys.state) }
if with_cells then
  reply[7] = redis.call('GET', keys.held) or ''
  reply[8] = redis.call('GET', keys.sold) or ''
end
return reply
