#!lua
-- book_places: book without a prior hold, in one step, and enter it in the journal.
--
-- KEYS[1] state     hash    the event's counters, limits and deadlines
-- KEYS[2] held      bitmap  cell = seat index x legs + leg
-- KEYS[3] sold      bitmap  the same
-- KEYS[4] holds     hash    hold id -> record
-- KEYS[5] expiries  zset    hold id scored by deadline_ms
-- KEYS[6] users     hash    customer -> places claimed
-- KEYS[7] rows      string  index of neighbours
-- KEYS[8] ended     hash    how the last holds ended
-- KEYS[9] bookings  hash    booking id -> record
-- KEYS[10] journal  stream  bookings not yet known to be in Postgres
-- KEYS[11] wakeups  zset    event id scored by its earliest deadline
-- KEYS[12] trail    stream  what became of holds, for the history in Postgres
-- KEYS[13] dead     hash    journal id -> what could not be written, and why
-- KEYS[14] once     string  optional: what the idempotency key was answered
--
-- ARGV[1] booking_id chosen by the caller: running the same call twice books once
-- ARGV[2] owner      customer id; or nobody, which takes places off sale: then neither limits of customers nor the line nor
--                    an event's being closed are in the way, but there is a bound of its own
-- ARGV[3] attempt    marks this request: the same attempt again is answered as the first time
-- ARGV[4] details    sealed bytes for the ledger
-- ARGV[5] body       digest of the request's body; only looked at with an idempotency key
-- ARGV[6] scope      digest of the idempotency key, for the ledger; ''
-- ARGV[7] once_ttl   ms for which the idempotency key is remembered
-- ARGV[8] bytes_max  memory of the journal past which it takes no more entries
-- ARGV[9] layout     digest of the layout that the places are numbered by
-- ARGV[10] places    `0:1;0*2;1#100,101;2?3`
-- ARGV[11] buried_id optional: journal id of a dead letter that is booked again, and goes with that
-- ARGV[12] letter    as the caller has read it: for another one nothing is booked
--
-- Returns {'CONFIRMED', epoch, created_ms, confirmed_ms, journal_id, places}
--         {'REPLAYED', booking_id}         the key's first answer
--         {'KEY_REUSED'}                   the key came with another body
--         {'BOOKED'} {'NOT_FOUND'}         the id belongs to another request, or customer
--         {'GONE'}                         there is no such letter (any more)
--         {'REFUSED'}                      it was a booking, which the ledger has refused
--         {'NOT_LOADED'} {'STALE_LAYOUT'}
--         {'UNAUDITED', epoch, server}     another server has taken over: hold the state against the ledger first
--         {'NOT_OPEN', status}
--         {'LIMIT', limit, maximum}
--         {'LINE'}                         people in line have yet to be asked: offer_places first
--         {'UNAVAILABLE', held, sold, next_release_ms, missing…}
--         {'JOURNAL_FULL'}                 too many bookings wait for Postgres
--         {'CONTINUE'}                     a bounded amount was cleaned up: call again at once

--- @include clock
--- @include bounds
--- @include event
--- @include places
--- @include rows for loosen_rows
--- @include move
--- @include rows, best for choose_seats
--- @include claim
--- @include line
--- @include hold for status_of_ended
--- @include hold, trail, release, reap for reap_due
--- @include server
--- @include journal_bound
--- @include book
--- @include block

--- @keys

local booking_id, owner, attempt, layout = ARGV[1], ARGV[2], ARGV[3], ARGV[9]
local request = { details = ARGV[4], body = ARGV[5], scope = ARGV[6], once_ttl = ARGV[7], attempt = attempt }
local bytes_max = tonumber(ARGV[8])
local buried_id, letter = ARGV[11], ARGV[12]
local places = parse_places(ARGV[10])
if not places then
  return redis.error_reply('HF_BADARG places: ' .. ARGV[10])
end

local ev = read_event(keys, read_clock(), places)
if not ev then
  return { 'NOT_LOADED' }
elseif ev.layout ~= layout then
  return { 'STALE_LAYOUT' }
end
local known = replay_booking(keys.once, request.body) or find_booking(ev, booking_id, owner, attempt)
if known then
  return known
elseif buried_id and redis.call('HGET', keys.dead, buried_id) ~= letter then
  return { 'GONE' }
elseif not buried_id and status_of_ended(ev, booking_id, owner) == 'REFUSED' then
  return { 'REFUSED' } -- its customer was told so: a copy of that call which comes late must not book after all
end
reap_due(ev, 1)
local is_sale = owner ~= BLOCKED
if ev.status == 'cancelled' then
  return { 'NOT_OPEN', ev.status }
elseif is_sale and (ev.status ~= 'open' or ev.now >= ev.closes) then
  return { 'NOT_OPEN', 'closed' }
end
local unaudited = refuse_unaudited(ev)
if unaudited then
  return unaudited
end
-- What stands in the way, if something does: a limit and its maximum, or places that are missing; or what to answer.
local function look()
  local missing = { held = 0, sold = 0 }
  places = parse_places(ARGV[10])
  local limit, maximum
  if is_sale then
    limit, maximum = check_limits(ev, places, owner)
  else
    limit, maximum = check_blocks(keys)
  end
  if is_sale and not limit and line_is_first(ev) then
    return { 'LINE' }
  elseif not limit and not check_places(ev, places, missing) then
    return { 'CONTINUE' }
  end
  return nil, missing, limit, maximum
end

local answer, missing, limit, maximum = look()
if not answer and (limit or #missing > 0) and ev.due <= ev.now then
  reap_due(ev) -- what stands in the way may have lapsed: many are ended, once, before the answer is that it does
  answer, missing, limit, maximum = look()
  if not answer and (limit or #missing > 0) and ev.due <= ev.now then
    answer = { 'CONTINUE' }
  end
end
if answer then
  return answer
elseif limit then
  return { 'LIMIT', limit, maximum }
elseif #missing > 0 then
  return { 'UNAVAILABLE', missing.held, missing.sold, next_release(ev), unpack(missing) }
elseif is_journal_full(keys.journal, bytes_max, 0) then
  return { 'JOURNAL_FULL' }
end

-- Nothing below refuses.
move_places(ev, places, 'free', 'sold')
redis.call('HINCRBY', keys.users, owner, places.quantity)
local booking = { owner = owner, quantity = places.quantity, created = ev.now, places = format_places(places) }
mark_block(keys, booking_id, owner, booking.places)
if buried_id then
  redis.call('HDEL', keys.dead, buried_id)
end
return write_booking(ev, booking_id, booking, request, keys.once)
