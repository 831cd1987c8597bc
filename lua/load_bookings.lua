#!lua
-- load_bookings: put a batch of bookings of the ledger into an event that is being loaded.
--
-- KEYS[1]  loading   hash    the state while it is being loaded
-- KEYS[2]  sold      bitmap  cell = seat index x legs + leg
-- KEYS[3]  users     hash    customer -> places claimed
-- KEYS[4]  rows      string  index of neighbours
-- KEYS[5]  bookings  hash    booking id -> record
--
-- ARGV[1]  epoch      of the load that this batch belongs to
-- ARGV[2]  bookings   `booking_id|confirmed_ms|places|owner` each, from here on
--
-- Returns {'LOADED', count}
--         {'STALE'}   another load has begun since

--- @include event
--- @include places
--- @include rows
--- @include move
--- @keys


keys.state = keys.loading -- the counters stand where they will be: under `loading` until the load is finished
local epoch = ARGV[1]

local ev = read_event(keys, 0)
if not ev or ev.epoch ~= epoch then
  return { 'STALE' }
end
for i = 2, #ARGV do
  local booking_id, confirmed, text, owner = string.match(ARGV[i], '^([^|]*)|(%d+)|([^|]*)|(.*)$')
  local places = parse_places(text)
  local record = table.concat({ confirmed, confirmed, '', '', places.quantity, text, owner }, '|')
  -- A batch whose reply was lost is sent again: what it has loaded already must not count twice.
  if redis.call('HSETNX', keys.bookings, booking_id, record) == 1 then
    move_places(ev, places, 'free', 'sold')
    redis.call('HINCRBY', keys.users, owner, places.quantity)
  end
end
write_event(ev)
return { 'LOADED', #ARGV - 1 }
