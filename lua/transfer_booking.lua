#!lua
-- transfer_booking: make a booking another customer's, within their limit; or take that back.
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
-- ARGV[2]  transfer   id of the transfer: running the same call twice moves it once
-- ARGV[3]  mode       'give' within the limit, or 'undo' what this transfer, and nobody since, has done
-- ARGV[4]  receiver   customer id of who is to have it
-- ARGV[5]  owner      customer id of who has it
--
-- Returns {'TRANSFERRED', epoch}    now, or by an earlier call
--         {'DIFFERS'}               Redis does not have the booking, or it is not this owner's
--         {'BUSY', deadline_ms}     its places are being changed
--         {'LIMIT', limit, maximum}
--         {'NOT_LOADED'}            the event's state is not in Redis
--         {'CONTINUE'}              a bounded amount was cleaned up: call again at once

--- @include clock
--- @include bounds
--- @include event
--- @include places
--- @include rows
--- @include move
--- @include hold
--- @include trail
--- @include release
--- @include reap
--- @include server
--- @include book
--- @include change
--- @keys

local booking_id, transfer, is_undone, receiver, owner = ARGV[1], ARGV[2], ARGV[3] == 'undo', ARGV[4], ARGV[5]
local mark = 'transferred:' .. transfer

local ev = read_event(keys, read_clock())
if not ev then
  return { 'NOT_LOADED' }
end
local booking = read_booking(ev, booking_id)
if not booking then
  return { 'DIFFERS' }
elseif booking.attempt == mark and not is_undone then
  return { 'TRANSFERRED', ev.epoch }
elseif booking.owner ~= owner or (is_undone and booking.attempt ~= mark) then
  return { 'DIFFERS' }
end
local other, waits_until = change_of(booking)
if other and waits_until > ev.now then
  return { 'BUSY', waits_until }
end
local claimed = tonumber(redis.call('HGET', keys.users, receiver)) or 0
if not is_undone and claimed + booking.quantity > ev.max_customer then
  if ev.due <= ev.now then
    reap_due(ev)
    return { 'CONTINUE' } -- a lapsed hold of the receiver may still count
  end
  return { 'LIMIT', 'max_places_per_customer', ev.max_customer }
end

-- Nothing below refuses.
forget_user_places(ev, owner, booking.quantity)
redis.call('HINCRBY', keys.users, receiver, booking.quantity)
booking.owner = receiver
write_record(ev, booking_id, booking, is_undone and '' or mark)
ev.seq = ev.seq + 1
write_event(ev)
return { 'TRANSFERRED', ev.epoch }
