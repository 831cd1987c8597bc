#!lua
-- apply_change: give a booking the places that the ledger has given it, out of what was held for the change.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  held      bitmap  cell = seat index x legs + leg
-- KEYS[3]  sold      bitmap  the same
-- KEYS[4]  holds     hash    hold id -> record
-- KEYS[5]  expiries  zset    hold id scored by deadline_ms
-- KEYS[6]  users     hash    customer -> places claimed
-- KEYS[7]  rows      string  index of neighbours
-- KEYS[8]  ended     hash    how the last holds ended
-- KEYS[9]  bookings  hash    booking id -> record
-- KEYS[10] wakeups   zset    event id scored by its earliest deadline
-- KEYS[11] trail     stream  what became of holds, for the history in Postgres
-- KEYS[12] removed   stream  bookings that have gone, or changed, for audits under way
--
-- ARGV[1]  booking_id
-- ARGV[2]  change     id of the change
-- ARGV[3]  places     that the booking has now
-- ARGV[4]  pieces     from here on: `hold_id|places` of what is new, `|places` of what is given up
--
-- Returns {'APPLIED', seq}     now, or by an earlier call
--         {'SUPERSEDED', seq}  the booking has ended, or somebody else has written its record: nothing is held any more
--         {'DRIFT'}            a hold had lapsed, and somebody else has its places: the audit, by the ledger, decides
--         {'CONTINUE'}         a bounded amount was cleaned up: call again at once
--         {'NOT_LOADED'}       the event's state is not in Redis

--- @include clock
--- @include bounds
--- @include event
--- @include places
--- @include rows
--- @include move
--- @include rows, best for choose_seats
--- @include claim
--- @include hold
--- @include trail
--- @include release
--- @include reap
--- @include server
--- @include book
--- @include change
--- @include removed
--- @keys

local booking_id, change, new_places = ARGV[1], ARGV[2], ARGV[3]
local pieces, given_up, hold_ids = {}, {}, {}
for i = 4, #ARGV do
  local hold_id, text = string.match(ARGV[i], '^([^|]*)|(.+)$')
  if hold_id == '' then
    given_up[#given_up + 1] = parse_places(text)
  else
    hold_ids[#hold_ids + 1] = hold_id
    pieces[#pieces + 1] = { hold_id = hold_id, places = parse_places(text) }
  end
end

-- Find the holds; what of a lapsed one's places is not free is added to `missing`.
local function check_pieces(ev, missing)
  for i = 1, #pieces do
    local piece = pieces[i]
    piece.hold = find_hold(ev, piece.hold_id)
    if not piece.hold then
      check_places(ev, piece.places, missing)
    end
  end
end

local function take_piece(ev, piece)
  move_places(ev, piece.places, piece.hold and 'held' or 'free', 'sold')
  if piece.hold then
    redis.call('HDEL', keys.holds, piece.hold_id)
    redis.call('ZREM', keys.expiries, piece.hold_id)
    forget_user_places(ev, piece.hold.owner, piece.hold.quantity)
    note_hold(ev, piece.hold_id, 'confirmed', ev.now, piece.hold)
  end
end

local ev = read_event(keys, read_clock())
if not ev then
  return { 'NOT_LOADED' }
end
local booking = read_booking(ev, booking_id)
if booking and booking.attempt == 'changed:' .. change then
  return { 'APPLIED', ev.seq }
elseif not booking or change_of(booking) ~= change then
  end_holds(ev, hold_ids)
  return { 'SUPERSEDED', ev.seq }
end
local missing = { held = 0, sold = 0 }
check_pieces(ev, missing)
if #missing > 0 then
  if reap_due(ev) > 0 then
    return { 'CONTINUE' }
  end
  return { 'DRIFT' }
end

-- Nothing below refuses.
for i = 1, #pieces do
  take_piece(ev, pieces[i])
end
for i = 1, #given_up do
  move_places(ev, given_up[i], 'sold', 'free')
end
note_removed(keys, booking_id, booking)
local old_quantity = booking.quantity
booking.places, booking.quantity = new_places, parse_places(new_places).quantity
forget_user_places(ev, booking.owner, old_quantity - booking.quantity)
write_record(ev, booking_id, booking, 'changed:' .. change)
move_due(ev, earliest_deadline(ev))
ev.seq = ev.seq + 1
write_event(ev)
return { 'APPLIED', ev.seq }
