#!lua flags=allow-oom
-- abandon_change: give back what was held for a change that the ledger has refused; the booking keeps what it has.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  held      bitmap  cell = seat index x legs + leg
-- KEYS[3]  holds     hash    hold id -> record
-- KEYS[4]  expiries  zset    hold id scored by deadline_ms
-- KEYS[5]  users     hash    customer -> places claimed
-- KEYS[6]  rows      string  index of neighbours
-- KEYS[7]  ended     hash    how the last holds ended
-- KEYS[8]  bookings  hash    booking id -> record
-- KEYS[9]  wakeups   zset    event id scored by its earliest deadline
-- KEYS[10] trail     stream  what became of holds, for the history in Postgres
--
-- ARGV[1]  booking_id
-- ARGV[2]  change     id of the change
-- ARGV[3]  hold_ids   of what was held for it, from here on
--
-- Returns {'ABANDONED', seq}   nothing is held for the change (any more)
--         {'NOT_LOADED'}       the event's state is not in Redis

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
--- @include change
--- @keys

local booking_id, change = ARGV[1], ARGV[2]

local ev = read_event(keys, read_clock())
if not ev then
  return { 'NOT_LOADED' }
end
local booking = read_booking(ev, booking_id)

-- Nothing below refuses.
end_holds(ev, { unpack(ARGV, 3, #ARGV) })
if booking and change_of(booking) == change then
  write_record(ev, booking_id, booking, '')
end
return { 'ABANDONED', ev.seq }
