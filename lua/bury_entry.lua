#!lua
-- bury_entry: move an entry that the ledger can never take from the journal to the dead letters.
--
-- KEYS[1] journal  stream  bookings not yet known to be in Postgres
-- KEYS[2] dead     hash    journal id -> what could not be written, and why
--
-- ARGV[1] journal_id
-- ARGV[2] letter      the entry as it is kept there, with the reason
-- ARGV[3] booking_id  that the entry names; '' where it names none
--
-- Returns {'BURIED'}
--         {'NOT_FOUND'}   the journal has no such entry (any more)

--- @include journal
--- @keys

local journal_id, letter, booking_id = ARGV[1], ARGV[2], ARGV[3]

if not is_entry_of(keys.journal, journal_id, booking_id) then
  return { 'NOT_FOUND' }
end

-- Nothing below refuses.
redis.call('HSET', keys.dead, journal_id, letter)
redis.call('XDEL', keys.journal, journal_id)
return { 'BURIED' }
