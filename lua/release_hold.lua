#!lua flags=allow-oom
-- release_hold: give every place of a hold back, or say who resolved it first.
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
-- KEYS[11] once      string  optional: the idempotency key that the hold was made with, which is forgotten with it
--
-- ARGV[1]  hold_id
-- ARGV[2]  owner      customer id; '' when the caller may release any hold
-- ARGV[3]  attempt    marks this request: the same attempt again is answered as the first time
-- ARGV[4]  body       digest that the idempotency key was used with; '' without one
--
-- Returns {'RELEASED', seq}
--         {'EXPIRED'} {'ALREADY_RELEASED'} {'BOOKED'} {'REFUSED'} {'NOT_FOUND'}
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

local hold_id, owner, attempt, body = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

-- Whoever made the hold with this key may send the same request again, and then holds anew.
local function forget_key()
  if not keys.once then
    return
  end
  local memory, names_it = redis.call('GET', keys.once), body .. '|' .. hold_id .. '/'
  if memory and string.sub(memory, 1, #names_it) == names_it then
    redis.call('DEL', keys.once)
  end
end

local ev = read_event(keys, read_clock())
if not ev then
  return { 'NOT_LOADED' }
end
local hold = find_hold(ev, hold_id)
if not hold then
  if booked_by(ev, hold_id, owner) then
    return { 'BOOKED' }
  end
  forget_key()
  local status = status_of_ended(ev, hold_id, owner)
  if status ~= 'RELEASED' then
    return { status }
  elseif attempt_that_ended(ev, hold_id) == attempt then
    return { 'RELEASED', ev.seq }
  end
  return { 'ALREADY_RELEASED' }
end
if owner ~= '' and hold.owner ~= owner then
  return { 'NOT_FOUND' }
end

-- Nothing below refuses: a lapsed hold is ended all the same, and told so.
local lapsed = hold.deadline <= ev.now
forget_key()
end_hold(ev, hold_id, hold, lapsed and 'expired' or 'released')
if not lapsed then
  remember_end(ev, hold_id, 'released:' .. attempt, hold.owner)
end
if hold.deadline <= ev.due then
  move_due(ev, earliest_deadline(ev))
end
write_event(ev)
if lapsed then
  return { 'EXPIRED' }
end
return { 'RELEASED', ev.seq }
