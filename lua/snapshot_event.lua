#!lua flags=allow-oom
-- snapshot_event: what is free, held and sold now, unless the caller has it; lapsed holds do not count.
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
-- ARGV[2]  known      the tag of the state that the caller has; '' when it has none
--
-- Returns {'SNAPSHOT', seq, epoch, status, next_release_ms, tag, {field, value, …}}             the state hash
--         {'SNAPSHOT', seq, epoch, status, next_release_ms, tag, {field, value, …}, held, sold}   with the bitmaps
--         {'SAME'}         nothing has changed since `known`
--         {'CONTINUE'}     lapsed holds were ended, and there are more: call again at once
--         {'NOT_LOADED'}   the event's state is not in Redis

--- @include clock
--- @include bounds
--- @include event
--- @include places
--- @include rows
--- @include move
--- @include hold
--- @include trail
--- @include release
--- @include reap
--- @include server
--- @keys

local with_cells, known = ARGV[1] == '1', ARGV[2]

local ev = read_event(keys, read_clock())
if not ev then
  return { 'NOT_LOADED' }
end
reap_due(ev)
if ev.due <= ev.now then
  return { 'CONTINUE' }
end
local next_release = ev.due == NEVER and 0 or ev.due
-- A server that took over may have an older state of the same epoch, and count up to the same seq by other changes.
local tag = table.concat({ ev.epoch, ev.seq, next_release, server_id() }, '.')
if tag == known then
  return { 'SAME' }
end
local reply = { 'SNAPSHOT', ev.seq, ev.epoch, ev.status, next_release, tag, redis.call('HGETALL', keys.state) }
if with_cells then
  reply[8] = redis.call('GET', keys.held) or ''
  reply[9] = redis.call('GET', keys.sold) or ''
end
return reply
