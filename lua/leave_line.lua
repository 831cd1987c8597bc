#!lua flags=allow-oom
-- leave_line: take an entry out of line, and give back what it was offered.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  held      bitmap  cell = seat index x legs + leg
-- KEYS[3]  holds     hash    hold id -> record
-- KEYS[4]  expiries  zset    hold id scored by deadline_ms
-- KEYS[5]  users     hash    customer -> places claimed
-- KEYS[6]  rows      string  index of neighbours
-- KEYS[7]  ended     hash    how the last holds ended
-- KEYS[8]  bookings  hash    booking id -> record
-- KEYS[9]  waitlist  zset    entry scored by priority and time
-- KEYS[10] entries   hash    entry -> what it waits for, and who
-- KEYS[11] wanted    hash    what the line waits for -> by how many entries
-- KEYS[12] notices   hash    entry -> what Postgres has yet to hear of it
-- KEYS[13] wakeups   zset    event id scored by its earliest deadline
-- KEYS[14] trail     stream  what became of holds, for the history in Postgres
-- KEYS[15] lines     set     events that somebody is in line for
--
-- ARGV[1]  event_id
-- ARGV[2]  entry
--
-- Returns {'LEFT'}         it is neither in line nor has an offer, now or since before
--         {'BOOKED'}       its offer has become a booking
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
--- @include line
--- @include queue
--- @keys

local event_id, entry = ARGV[1], ARGV[2]

local ev = read_event(keys, read_clock())
if not ev then
  return { 'NOT_LOADED' }
elseif booked_by(ev, entry, '') then
  return { 'BOOKED' }
end

-- Nothing below refuses.
if leave_queue(keys, entry) and line_is_first(ev) then
  redis.call('HSET', keys.state, 'waiting', '0') -- the ranks behind it are others now
end
redis.call('HDEL', keys.notices, entry)
local hold = find_hold(ev, entry)
if hold then
  local lapsed = hold.deadline <= ev.now
  end_hold(ev, entry, hold, lapsed and 'expired' or 'released')
  if hold.deadline <= ev.due then
    move_due(ev, earliest_deadline(ev))
  end
  write_event(ev)
end
tidy_line(keys, event_id)
return { 'LEFT' }
