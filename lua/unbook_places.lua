#!lua flags=allow-oom
-- unbook_places: free what a booking owns, and only that; and forget that it was ever accepted.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  sold      bitmap  cell = seat index x legs + leg
-- KEYS[3]  users     hash    customer -> places claimed
-- KEYS[4]  rows      string  index of neighbours
-- KEYS[5]  bookings  hash    booking id -> record
-- KEYS[6]  journal   stream  bookings not yet known to be in Postgres
-- KEYS[7]  ended     hash    how the last holds ended
-- KEYS[8]  once      string  optional: the idempotency key that the booking was made with
--
-- ARGV[1]  booking_id
-- ARGV[2]  journal_id  '' when there is no entry to drop
-- ARGV[3]  owner       of a booking that the ledger has refused, who will be told so; '' otherwise
-- ARGV[4]  body        digest that the idempotency key was used with
--
-- Returns {'UNBOOKED', seq}
--         {'NOT_FOUND'}    there is no such booking (any more): no place changed
--         {'NOT_LOADED'}   the event's state is not in Redis

--- @include clock
--- @include event
--- @include places
--- @include rows
--- @include move
--- @include hold
--- @include release
--- @include server
--- @include book
--- @keys

local booking_id, journal_id, owner, body = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local ev = read_event(keys, read_clock())
if journal_id ~= '' then
  redis.call('XDEL', keys.journal, journal_id)
end
if keys.once and redis.call('GET', keys.once) == body .. '|' .. booking_id then
  redis.call('DEL', keys.once) -- a refusal is not remembered: the same request may succeed later
end
if not ev then
  return { 'NOT_LOADED' }
end
if owner ~= '' then
  remember_end(ev, booking_id, 'refused', owner)
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
