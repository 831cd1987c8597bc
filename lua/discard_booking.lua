#!lua flags=allow-oom
-- discard_booking: forget a dead letter for good, and undo its booking, which the ledger does not have.
--
-- In one step: whoever has put the letter back into the journal meanwhile keeps the booking.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  sold      bitmap  cell = seat index x legs + leg
-- KEYS[3]  users     hash    customer -> places claimed
-- KEYS[4]  rows      string  index of neighbours
-- KEYS[5]  bookings  hash    booking id -> record
-- KEYS[6]  ended     hash    how the last holds ended
-- KEYS[7]  dead      hash    journal id -> what could not be written, and why
-- KEYS[8]  trail     stream  what became of holds, for the history in Postgres
-- KEYS[9]  removed   stream  bookings that have gone, for audits under way
-- KEYS[10] once      string  optional: the idempotency key that the booking was made with
--
-- ARGV[1]  journal_id
-- ARGV[2]  letter      as the caller has read it: another one is left alone
-- ARGV[3]  booking_id
-- ARGV[4]  owner       who will be told that it was refused
-- ARGV[5]  body        digest that the idempotency key was used with
--
-- Returns {'UNBOOKED', seq}
--         {'DISCARDED'}   only the letter had to go: Redis has no such booking, or has it from the ledger
--         {'NOT_FOUND'}   there is no such letter (any more)

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
--- @include block
--- @include removed
--- @include unbook
--- @keys

local journal_id, letter, booking_id, owner, body = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

if redis.call('HGET', keys.dead, journal_id) ~= letter then
  return { 'NOT_FOUND' }
end

-- Nothing below refuses.
redis.call('HDEL', keys.dead, journal_id)
local record = redis.call('HGET', keys.bookings, booking_id)
local booking = record and parse_booking(record)
if booking and booking.journal_id ~= journal_id then
  return { 'DISCARDED' } -- its places are not this entry's: they were loaded from the ledger
end
tell_refused(keys, booking_id, owner, body)
local ev = read_event(keys, read_clock())
if not ev or not booking then
  return { 'DISCARDED' }
end
undo_booking(ev, booking_id, booking, owner)
return { 'UNBOOKED', ev.seq }
