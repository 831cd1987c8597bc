#!lua flags=no-writes
-- read_booking: a booking as Redis knows it: with its journal entry while it is not known to be in Postgres.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  bookings  hash    booking id -> record
-- KEYS[3]  journal   stream  bookings not yet known to be in Postgres
--
-- ARGV[1]  booking_id
--
-- Returns {'JOURNALED', journal_id, {field, value, …}}   the journal entry
--         {'RECORDED'}                                   Postgres has it
--         {'NOT_FOUND'}
--         {'NOT_LOADED'}                                 the event's state is not in Redis

--- @include event
--- @include book
--- @keys


if redis.call('EXISTS', keys.state) == 0 then
  return { 'NOT_LOADED' }
end
local record = redis.call('HGET', keys.bookings, ARGV[1])
if not record then
  return { 'NOT_FOUND' }
end
local journal_id = parse_booking(record).journal_id
local entry = journal_id ~= '' and redis.call('XRANGE', keys.journal, journal_id, journal_id)[1]
if not entry then
  return { 'RECORDED' }
end
return { 'JOURNALED', journal_id, entry[2] }
