#!lua
-- reserve_change: hold what a booking is to get by a change of its places, all or nothing; it keeps what it has.
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
--
-- ARGV[1]  booking_id
-- ARGV[2]  owner      customer id, as the ledger has it
-- ARGV[3]  layout     digest of the layout that the places are numbered by
-- ARGV[4]  places     that the booking has, as the ledger has it
-- ARGV[5]  quantity   how many places it is to have
-- ARGV[6]  sale       '1' when new places are to be had only while the event is on sale
-- ARGV[7]  change     id of the change: running the same call twice reserves once
-- ARGV[8]  ttl        ms for which the change has the places to itself
-- ARGV[9]  pieces     `hold_id|places` each, from here on: what is new, by legs; wishes come last
--
-- Returns {'RESERVED', epoch, places…}    of each piece, wishes turned into seats
--         {'NOT_LOADED'} {'STALE_LAYOUT'}
--         {'DIFFERS'}                     Redis does not have the booking as the ledger does (any more, or yet)
--         {'BUSY', deadline_ms}           another change of it is under way
--         {'UNAUDITED', epoch, server}    another server has taken over: hold the state against the ledger first
--         {'NOT_OPEN', status}
--         {'LIMIT', limit, maximum}
--         {'LINE'}                        people in line have yet to be asked: offer_places first
--         {'UNAVAILABLE', held, sold, next_release_ms, missing…}
--         {'CONTINUE'}                    a bounded amount was cleaned up: call again at once

--- @include clock
--- @include bounds
--- @include event
--- @include places
--- @include rows
--- @include move
--- @include rows, best for choose_seats
--- @include claim
--- @include line
--- @include hold
--- @include trail
--- @include release
--- @include reap
--- @include write_hold
--- @include server
--- @include book
--- @include change
--- @keys

local booking_id, owner, layout, old_places = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local quantity, is_for_sale_only, change, ttl = tonumber(ARGV[5]), ARGV[6] == '1', ARGV[7], tonumber(ARGV[8])

local pieces = {}
for i = 9, #ARGV do
  local hold_id, text = string.match(ARGV[i], '^([^|]+)|(.+)$')
  local places = hold_id and parse_places(text)
  if not places then
    return redis.error_reply('HF_BADARG piece: ' .. ARGV[i])
  end
  pieces[#pieces + 1] = { hold_id = hold_id, places = places }
end

-- What the same call answered before, or nil where not everything is there any more.
local function reserved_before(ev)
  local reply = { 'RESERVED', ev.epoch }
  for i = 1, #pieces do
    local hold = find_hold(ev, pieces[i].hold_id)
    if not hold then
      return nil
    end
    reply[#reply + 1] = hold.places
  end
  return reply
end

-- Whether every piece was looked at; appends to `missing`.
local function check_pieces(ev, missing)
  local chosen = {}
  for i = 1, #pieces do
    if not check_places(ev, pieces[i].places, missing, chosen) then
      return false
    end
  end
  return true
end

-- Which limit the booking would break by growing, or nil. What it has counts once.
local function check_growth(ev, booking)
  if quantity <= booking.quantity then
    return nil
  end
  return check_limits(ev, { quantity = quantity }, owner, booking.quantity)
end

local ev = read_event(keys, read_clock())
if not ev then
  return { 'NOT_LOADED' }
elseif ev.layout ~= layout then
  return { 'STALE_LAYOUT' }
end
local booking = read_booking(ev, booking_id)
if not booking or booking.owner ~= owner or booking.places ~= old_places then
  return { 'DIFFERS' }
end
local other, waits_until = change_of(booking)
if other == change then
  return reserved_before(ev) or { 'BUSY', waits_until }
elseif other and waits_until > ev.now then
  return { 'BUSY', waits_until }
end
local unaudited = refuse_unaudited(ev)
if unaudited then
  return unaudited
end
if ev.due <= ev.now then
  reap_due(ev)
end
local is_on_sale = ev.status == 'open' and ev.now < ev.closes
if ev.status == 'cancelled' or (is_for_sale_only and #pieces > 0 and not is_on_sale) then
  return { 'NOT_OPEN', ev.status == 'open' and 'closed' or ev.status }
end
local limit, maximum = check_growth(ev, booking)
local missing = { held = 0, sold = 0 }
if is_on_sale and not limit and #pieces > 0 and line_is_first(ev) then -- of a line off sale nobody is asked
  return { 'LINE' }
elseif not limit and not check_pieces(ev, missing) then
  return { 'CONTINUE' }
elseif (limit or #missing > 0) and ev.due <= ev.now then
  return { 'CONTINUE' } -- lapsed holds that are not ended yet must not decide
elseif limit then
  return { 'LIMIT', limit, maximum }
elseif #missing > 0 then
  return { 'UNAVAILABLE', missing.held, missing.sold, next_release(ev), unpack(missing) }
end

-- Nothing below refuses.
local reply, deadline = { 'RESERVED', ev.epoch }, ev.now + ttl
for i = 1, #pieces do
  local text = format_places(pieces[i].places)
  write_hold(ev, pieces[i].hold_id, pieces[i].places, text, deadline, owner)
  reply[#reply + 1] = text
end
write_record(ev, booking_id, booking, 'changing:' .. deadline .. ':' .. change)
ev.seq = ev.seq + 1
write_event(ev)
return reply
