#!lua
-- extend_hold: move the deadline of a hold, never beyond the event's ttl_max from its creation.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  held      bitmap  cell = seat index x legs + leg
-- KEYS[3]  holds     hash    hold id -> record
-- KEYS[4]  expiries  zset    hold id scored by deadline_ms
-- KEYS[5]  users     hash    customer -> places claimed
-- KEYS[6]  rows      string  index of neighbours
-- KEYS[7]  ended     hash    how the last holds ended
-- KEYS[8]  bookings  hash    booking id -> record
-- KEYS[9]  wakeups   zset    event id scored by its earliest deadline
-- KEYS[10] trail     stream  what became of holds, for the history in Postgres
--
-- ARGV[1]  hold_id
-- ARGV[2]  owner      customer id; '' when the caller may extend any hold
-- ARGV[3]  ttl        ms from now until the new deadline
--
-- Returns {'EXTENDED', seq, created_ms, deadline_ms, places}
--         {'PAYING', seq, created_ms, deadline_ms, places}   a payment has begun: the deadline it has been given stays
--         {'EXPIRED'} {'RELEASED'} {'BOOKED'} {'REFUSED'} {'NOT_FOUND'}
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
--- @keys

local hold_id, owner, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])

local ev = read_event(keys, read_clock())
if not ev then
  return { 'NOT_LOADED' }
end
local hold = find_hold(ev, hold_id)
if not hold then
  return { booked_by(ev, hold_id, owner) and 'BOOKED' or status_of_ended(ev, hold_id, owner) }
end
if owner ~= '' and hold.owner ~= owner then
  return { 'NOT_FOUND' }
elseif hold.deadline <= ev.now then
  end_hold(ev, hold_id, hold, 'expired')
  move_due(ev, earliest_deadline(ev))
  write_event(ev)
  return { 'EXPIRED' }
elseif hold.phase == 'paying' then
  return { 'PAYING', ev.seq, hold.created, hold.deadline, hold.places }
end

-- Nothing below refuses.
-- An offer to somebody in line has a later deadline than that from the beginning, and keeps it.
local deadline = math.min(ev.now + ttl, math.max(hold.created + ev.ttl_max, hold.deadline))
local was_earliest = hold.deadline <= ev.due
hold.deadline = deadline
store_hold(ev, hold_id, hold)
note_hold(ev, hold_id, 'active', deadline, hold)
if was_earliest or deadline < ev.due then
  move_due(ev, earliest_deadline(ev))
end
ev.seq = ev.seq + 1
write_event(ev)
return { 'EXTENDED', ev.seq, hold.created, deadline, hold.places }
