#!lua flags=no-writes
-- read_booking: a booking as Redis knows it: with its journal entry while it is not known to be in Postgres.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  bookings  hash    booking id -> record
-- KEYS[3]  journal   stream  bookings not yet known to be in Postgres
-- KEYS[4]  ended     hash    how the last holds ended
-- KEYS[5]  dead      hash    journal id -> what could not be written, and why
--
-- ARGV[1]  booking_id
-- ARGV[2]  owner      customer id; '' when the caller may know of any refusal
--
-- Returns {'JOURNALED', journal_id, {field, value, …}}   the journal entry
--         {'BURIED', journal_id, letter}                 Postgres can never take it; a person looks into it
--         {'RECORDED'}                                   Postgres has it
--         {'REFUSED'}                                    it was this owner's, and Postgres would not have it
--         {'NOT_FOUND'}
--         {'NOT_LOADED'}                                 the event's state is not in Redis

--- @include bounds
--- @include event
--- @include hold
--- @include server
--- @include book
--- @keys

if redis.call('EXISTS', keys.state) == 0 then
  return { 'NOT_LOADED' }
end
local record = redis.call('HGET', keys.bookings, ARGV[1])
if not record then
  local refused = status_of_ended({ keys = keys }, ARGV[1], ARGV[2]) == 'REFUSED'
  return { refused and 'REFUSED' or 'NOT_FOUND' }
end
local journal_id = parse_booking(record).journal_id
local entry = journal_id ~= '' and redis.call('XRANGE', keys.journal, journal_id, journal_id)[1]
if entry then
  return { 'JOURNALED', journal_id, entry[2] }
end
local letter = journal_id ~= '' and redis.call('HGET', keys.dead, journal_id)
if letter then
  return { 'BURIED', journal_id, letter }
end
return { 'RECORDED' }
