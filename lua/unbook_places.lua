#!lua flags=allow-oom
-- unbook_places: free what a booking owns, and only that, or keep it off sale; and forget that it was ever accepted.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  sold      bitmap  cell = seat index x legs + leg
-- KEYS[3]  users     hash    customer -> places claimed
-- KEYS[4]  rows      string  index of neighbours
-- KEYS[5]  bookings  hash    booking id -> record
-- KEYS[6]  journal   stream  bookings not yet known to be in Postgres
-- KEYS[7]  ended     hash    how the last holds ended
-- KEYS[8]  trail     stream  what became of holds, for the history in Postgres
-- KEYS[9]  removed   stream  bookings that have gone, for audits under way
-- KEYS[10] once      string  optional: the idempotency key that the booking was made with
--
-- ARGV[1]  booking_id
-- ARGV[2]  journal_id  '' when there is no entry to drop
-- ARGV[3]  owner       of a booking that the ledger has refused, who will be told so; '' otherwise
-- ARGV[4]  body        digest that the idempotency key was used with
-- ARGV[5]  keep        optional: 'keep' leaves its places sold, to nobody, until the next exact audit
--
-- Returns {'UNBOOKED', seq}
--         {'NOT_FOUND'}    there is no such booking (any more): no place changed
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
--- @include server
--- @include book
--- @include journal
--- @include block
--- @include removed
--- @include unbook
--- @keys

local booking_id, journal_id, owner, body, keeps = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5] == 'keep'

local ev = read_event(keys, read_clock())
if journal_id ~= '' and is_entry_of(keys.journal, journal_id, booking_id) then
  redis.call('XDEL', keys.journal, journal_id)
end
tell_refused(keys, booking_id, owner, body)
if not ev then
  return { 'NOT_LOADED' }
end
local record = redis.call('HGET', keys.bookings, booking_id)
if not record then
  return { 'NOT_FOUND' }
end
undo_booking(ev, booking_id, parse_booking(record), owner, keeps)
return { 'UNBOOKED', ev.seq }
