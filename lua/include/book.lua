-- Entering a booking: its record, its journal entry, the idempotency key. Needs event, server.

-- `confirmed_ms|created_ms|journal_id|attempt|quantity|places|owner`; the owner may contain anything.
local function parse_booking(record)
  local confirmed, created, journal_id, attempt, quantity, places, owner =
    string.match(record, '^(%d+)|(%d+)|([^|]*)|([^|]*)|(%d+)|([^|]*)|(.*)$')
  return {
    confirmed = tonumber(confirmed),
    created = tonumber(created),
    journal_id = journal_id,
    attempt = attempt,
    quantity = tonumber(quantity),
    places = places,
    owner = owner,
  }
end

-- The answer when the state was neither built on this server nor held against the ledger here: after a failover it may
-- lack bookings, and what it says is free may be sold. Holds may go on; a booking may not.
local function refuse_unaudited(ev)
  local server = server_id()
  if redis.call('HGET', ev.keys.state, 'audited') ~= server then
    return { 'UNAUDITED', ev.epoch, server }
  end
end

local function format_booking(booking)
  return table.concat({
    booking.confirmed, booking.created, booking.journal_id, booking.attempt, booking.quantity, booking.places,
    booking.owner,
  }, '|')
end

-- The answer when the idempotency key was used before, or nil.
local function replay_booking(once, body)
  local answer = once and redis.call('GET', once)
  if not answer then
    return nil
  end
  local first_body, booking_id = string.match(answer, '^([^|]*)|(.*)$')
  if first_body ~= body then
    return { 'KEY_REUSED' }
  end
  return { 'REPLAYED', booking_id }
end

-- The answer when the booking is there already, or nil. The attempt that made it hears what it heard before.
local function find_booking(ev, booking_id, owner, attempt)
  local record = redis.call('HGET', ev.keys.bookings, booking_id)
  if not record then
    return nil
  end
  local booking = parse_booking(record)
  if booking.owner ~= owner then
    return { 'NOT_FOUND' }
  elseif booking.attempt ~= attempt then
    return { 'BOOKED' }
  end
  return { 'CONFIRMED', ev.epoch, booking.created, booking.confirmed, booking.journal_id, booking.places }
end

local function write_booking(ev, booking_id, booking, request, once)
  local event_id = redis.call('HGET', ev.keys.state, 'event')
  local journal_id = redis.call('XADD', ev.keys.journal, '*', 'event', event_id, 'epoch', ev.epoch, 'booking', booking_id,
    'owner', booking.owner, 'places', booking.places, 'created', booking.created, 'confirmed', ev.now,
    'details', request.details, 'once', request.scope, 'body', request.body)
  booking.confirmed, booking.journal_id, booking.attempt = ev.now, journal_id, request.attempt
  redis.call('HSET', ev.keys.bookings, booking_id, format_booking(booking))
  if once then
    redis.call('SET', once, request.body .. '|' .. booking_id, 'PX', request.once_ttl)
  end
  ev.seq = ev.seq + 1
  write_event(ev)
  return { 'CONFIRMED', ev.epoch, booking.created, ev.now, journal_id, booking.places }
end
