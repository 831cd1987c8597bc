#!lua flags=no-writes
-- read_hold: a hold as it stands, or how it ended.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  holds     hash    hold id -> record
-- KEYS[3]  expiries  zset    hold id scored by deadline_ms
-- KEYS[4]  ended     hash    how the last holds ended
-- KEYS[5]  bookings  hash    booking id -> record
--
-- ARGV[1]  hold_id
-- ARGV[2]  owner      customer id; '' when the caller may see any hold
--
-- Returns {'ACTIVE', created_ms, deadline_ms, places}
--         {'PAYING', created_ms, deadline_ms, places}   a payment has begun
--         {'EXPIRED'} {'RELEASED'} {'BOOKED'} {'REFUSED'} {'NOT_FOUND'}
--         {'NOT_LOADED'}   the event's state is not in Redis

--- @include clock
--- @include bounds
--- @include event
--- @include hold
--- @keys

local hold_id, owner = ARGV[1], ARGV[2]

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
  return { 'EXPIRED' }
end
if hold.phase == 'paying' then
  return { 'PAYING', hold.created, hold.deadline, hold.places }
end
return { 'ACTIVE', hold.created, hold.deadline, hold.places }
