#!lua flags=allow-oom
-- reap_event: end holds whose deadline has passed, a bounded number.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  held      bitmap  cell = seat index x legs + leg
-- KEYS[3]  holds     hash    hold id -> record
-- KEYS[4]  expiries  zset    hold id scored by deadline_ms
-- KEYS[5]  users     hash    customer -> places claimed
-- KEYS[6]  rows      string  index of neighbours
-- KEYS[7]  ended     hash    how the last holds ended
-- KEYS[8]  wakeups   zset    event id scored by its earliest deadline
-- KEYS[9]  trail     stream  what became of holds, for the history in Postgres
--
-- Returns {'REAPED', count, due_ms}    due_ms of the next deadline, 0 without one; call again while it lies in the past
--         {'NOT_LOADED'}               the event's state is not in Redis

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
--- @keys


local ev = read_event(keys, read_clock())
if not ev then
  return { 'NOT_LOADED' }
end
local count = reap_due(ev)
return { 'REAPED', count, ev.due == NEVER and 0 or ev.due }
