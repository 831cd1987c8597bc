#!lua flags=allow-oom
-- unbook_places: free what a booking owns, and only that; and drop its journal entry.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  sold      bitmap  cell = seat index x legs + leg
-- KEYS[3]  users     hash    customer -> places claimed
-- KEYS[4]  rows      string  index of neighbours
-- KEYS[5]  bookings  hash    booking id -> record
-- KEYS[6]  journal   stream  bookings not yet known to be in Postgres
--
-- ARGV[1]  booking_id
-- ARGV[2]  journal_id '' when there is no entry to drop
--
-- Returns {'UNBOOKED', seq}
--         {'NOT_FOUND'}    there is no such booking (any more): nothing changed but the journal
--         {'NOT_LOADED'}   the event's state is not in Redis

--- @include clock
--- @include event
--- @include places
--- @include rows
--- @include move
--- @include hold
--- @include release
--- @include book
--- @keys

local booking_id, journal_id = ARGV[1], ARGV[2]

local ev = read_event(keys, read_clock())
if journal_id ~= '' then
  redis.call('XDEL', keys.journal, journal_id)
end
if not ev then
  return { 'NOT_LOADED' }
end
local record = redis.call('HGET', keys.bookings, booking_id)
if not record then
  return { 'NOT_FOUND' }
end
local booking = parse_booking(record)
move_places(ev, parse_places(booking.places), 'sold', 'free')
redis.call('HDEL', keys.bookings, booking_id)
forget_user_places(ev, booking.owner, booking.quantity)
ev.seq = ev.seq + 1
write_event(ev)
return { 'UNBOOKED', ev.seq }
