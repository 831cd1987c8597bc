#!lua
-- begin_payment: let a hold live until its payment is over: its deadline moves once, and never again.
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
-- ARGV[2]  owner      customer id
-- ARGV[3]  ttl        ms from now for which the hold lives at least
--
-- Returns {'BEGUN', seq, created_ms, deadline_ms, places}   also when the payment had begun before
--         {'EXPIRED'} {'RELEASED'} {'BOOKED'} {'REFUSED'} {'NOT_FOUND'}
--         {'NOT_OPEN', status}   the event was cancelled
--         {'NOT_LOADED'}         the event's state is not in Redis

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
if hold.owner ~= owner then
  return { 'NOT_FOUND' }
elseif hold.deadline <= ev.now then
  end_hold(ev, hold_id, hold, 'expired')
  move_due(ev, earliest_deadline(ev))
  write_event(ev)
  return { 'EXPIRED' }
elseif hold.phase == 'paying' then
  return { 'BEGUN', ev.seq, hold.created, hold.deadline, hold.places }
elseif ev.status == 'cancelled' then
  return { 'NOT_OPEN', ev.status }
end

-- Nothing below refuses. A hold that lives longer than its payment may take keeps its deadline.
local deadline = math.max(hold.deadline, ev.now + ttl)
local was_earliest = hold.deadline <= ev.due
hold.phase, hold.deadline = 'paying', deadline
store_hold(ev, hold_id, hold)
note_hold(ev, hold_id, 'active', deadline, hold)
if was_earliest then
  move_due(ev, earliest_deadline(ev))
end
ev.seq = ev.seq + 1
write_event(ev)
return { 'BEGUN', ev.seq, hold.created, deadline, hold.places }
