#!lua
-- revive_entry: put a dead letter back into the journal, under a new id.
--
-- KEYS[1] bookings  hash    booking id -> record
-- KEYS[2] journal   stream  bookings not yet known to be in Postgres
-- KEYS[3] dead      hash    journal id -> what could not be written, and why
--
-- ARGV[1] journal_id  the one that it was buried under
-- ARGV[2] letter      as the caller has read it: another one is left alone
-- ARGV[3] booking_id
-- ARGV[4] fields      the entry's fields and values, from here on
--
-- Returns {'REVIVED', journal_id}
--         {'NOT_FOUND'}   there is no such letter (any more)

--- @include bounds
--- @include event
--- @include server
--- @include book
--- @keys

local journal_id, letter, booking_id = ARGV[1], ARGV[2], ARGV[3]
local FIRST_FIELD = 4

if redis.call('HGET', keys.dead, journal_id) ~= letter then
  return { 'NOT_FOUND' }
end

-- Nothing below refuses.
local revived_id = redis.call('XADD', keys.journal, '*', unpack(ARGV, FIRST_FIELD, #ARGV))
local record = redis.call('HGET', keys.bookings, booking_id)
local booking = record and parse_booking(record)
if booking and booking.journal_id == journal_id then
  booking.journal_id = revived_id
  redis.call('HSET', keys.bookings, booking_id, format_booking(booking))
end
redis.call('HDEL', keys.dead, journal_id)
return { 'REVIVED', revived_id }
