#!lua
-- join_line: put an entry in line, unless it is there, or had its turn: then say what became of it.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  holds     hash    hold id -> record
-- KEYS[3]  expiries  zset    hold id scored by deadline_ms
-- KEYS[4]  ended     hash    how the last holds ended
-- KEYS[5]  bookings  hash    booking id -> record
-- KEYS[6]  waitlist  zset    entry scored by priority and time
-- KEYS[7]  entries   hash    entry -> what it waits for, and who
-- KEYS[8]  wanted    hash    what the line waits for -> by how many entries
-- KEYS[9]  lines     set     events that somebody is in line for
--
-- ARGV[1]  event_id
-- ARGV[2]  entry      also the id of the hold that it will be offered
-- ARGV[3]  score      its place in line: lower comes first
-- ARGV[4]  places     `0:1;0*2;1#100,101;2?3`
-- ARGV[5]  owner      customer id
--
-- Returns {'JOINED'}                                  it was not in line, and is
--         {'WAITING'}
--         {'OFFERED', created_ms, deadline_ms, places}
--         {'BOOKED'} {'EXPIRED'} {'RELEASED'} {'REFUSED'}   how the hold that it was offered has ended
--         {'NOT_LOADED'}                              the event's state is not in Redis

--- @include clock
--- @include bounds
--- @include event
--- @include places
--- @include hold
--- @include queue
--- @keys

local event_id, entry, score, text, owner = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if not parse_places(text) then
  return redis.error_reply('HF_BADARG places: ' .. text)
end

local ev = read_event(keys, read_clock())
if not ev then
  return { 'NOT_LOADED' }
end
local hold = find_hold(ev, entry)
if hold then
  if hold.deadline <= ev.now then
    return { 'EXPIRED' } -- whoever reaps it next will write it down
  end
  return { 'OFFERED', hold.created, hold.deadline, hold.places }
end
if booked_by(ev, entry, '') then
  return { 'BOOKED' }
end
local ended = status_of_ended(ev, entry, '')
if ended ~= 'NOT_FOUND' then
  return { ended }
elseif ev.waiting and redis.call('HGET', keys.entries, entry) and redis.call('ZSCORE', keys.waitlist, entry) then
  return { 'WAITING' }
end

-- Nothing below refuses.
enter_line(keys, event_id, entry, score, text, owner)
return { 'JOINED' }
