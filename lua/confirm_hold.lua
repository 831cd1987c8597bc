#!lua
-- confirm_hold: turn a hold into a booking and enter it in the journal, or say who resolved the hold first.
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
-- KEYS[13] once     string  optional: what the idempotency key was answered
--
-- ARGV[1] hold_id    also the booking's id
-- ARGV[2] owner      customer id
-- ARGV[3] attempt    marks this request: the same attempt again is answered as the first time
-- ARGV[4] details    sealed bytes for the ledger
-- ARGV[5] body       digest of the request's body; only looked at with an idempotency key
-- ARGV[6] scope      digest of the idempotency key, for the ledger; ''
-- ARGV[7] once_ttl   ms for which the idempotency key is remembered
-- ARGV[8] bytes_max  memory of the journal past which it takes no more entries
--
-- Returns {'CONFIRMED', epoch, created_ms, confirmed_ms, journal_id, places}
--         {'REPLAYED', booking_id}         the key's first answer
--         {'KEY_REUSED'}                   the key came with another body
--         {'BOOKED'}                       another request has confirmed this hold
--         {'EXPIRED'} {'RELEASED'} {'NOT_FOUND'}
--         {'REFUSED'}                      it was a booking, which the ledger has refused
--         {'NOT_OPEN', status}             the event was cancelled
--         {'UNAUDITED', epoch, server}     another server has taken over: hold the state against the ledger first
--         {'JOURNAL_FULL'}                 too many bookings wait for Postgres; the hold lives on
--         {'NOT_LOADED'}                   the event's state is not in Redis

-- The usual confirmation, straight through: one item on one leg, a hold that lives, nothing to refuse. As in hold_places,
-- whatever else there is falls through to the general way, and nothing has been written by then: this must never do what
-- the general way would not, and need not do all that it would.

--- @include bounds
--- @include journal_bound

local time = redis.call('TIME') -- once: on Redis 7.0 it moves on while a script runs
time = time[1] * 1000 + math.floor(time[2] / 1000)
local record = not (KEYS[13] and redis.call('EXISTS', KEYS[13]) == 1) and redis.call('HGET', KEYS[4], ARGV[1])
local lifetime, places, leg, last, section, kind, amount, whose
if record then
  lifetime, places, leg, last, section, kind, amount, whose =
    string.match(record, '^[ap]|(%d+)|((%d+):(%d+);(%d+)([*#])(%d+))|(.*)$')
end
if whose == ARGV[2] and last - leg == 1 then
  local hold_id, counter = ARGV[1], ':' .. section .. ':' .. leg
  local status, event_id, epoch, audited, seq, clock, due, legs, held, sold = unpack(redis.call('HMGET', KEYS[1],
    'status', 'event', 'epoch', 'audited', 'seq', 'clock', 'due', 'legs', 'held' .. counter, 'sold' .. counter))
  local deadline = tonumber(redis.call('ZSCORE', KEYS[5], hold_id) or 0)
  -- Damage must show before anything is written, not in the middle of it.
  seq, legs, held, sold = tonumber(seq), tonumber(legs), tonumber(held), tonumber(sold)
  local now = math.max(time, tonumber(clock or 0))
  -- A rebuild removes status and epoch before the journal is drained for the last time: nothing is booked behind it.
  if status and epoch and event_id and held and sold and seq and legs and tonumber(due) and status ~= 'cancelled' and now < deadline
    and not is_journal_full(KEYS[10], tonumber(ARGV[8]), 0)
    and not redis.call('HGET', KEYS[9], hold_id)
    and audited == string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
  then
    local is_seat = kind == '#'
    local quantity, created = is_seat and 1 or tonumber(amount), math.max(deadline - lifetime, 0)
    if is_seat then
      redis.call('SETBIT', KEYS[2], amount * legs + leg, 0)
      redis.call('SETBIT', KEYS[3], amount * legs + leg, 1)
    end
    redis.call('HDEL', KEYS[4], hold_id)
    redis.call('ZREM', KEYS[5], hold_id)
    if deadline <= tonumber(due) then
      local first = redis.call('ZRANGE', KEYS[5], 0, 0, 'WITHSCORES')[2]
      if not first then
        redis.call('ZREM', KEYS[11], event_id)
      elseif first ~= due then
        redis.call('ZADD', KEYS[11], first, event_id)
      end
      due = first or NEVER
    end
    local rest = quantity .. '|' .. places .. '|' .. whose
    redis.call('XADD', KEYS[12], 'NOMKSTREAM', 'MAXLEN', '~', TRAIL_MAX, '*', KEYS[1],
      hold_id .. '|confirmed|' .. created .. '|' .. now .. '|' .. rest)
    local journal_id = redis.call('XADD', KEYS[10], '*', 'event', event_id, 'epoch', epoch, 'booking', hold_id,
      'owner', whose, 'places', places, 'created', created, 'confirmed', now, 'details', ARGV[4], 'once', ARGV[6],
      'body', ARGV[5])
    redis.call('HSET', KEYS[9], hold_id,
      now .. '|' .. created .. '|' .. journal_id .. '|' .. ARGV[3] .. '|' .. rest)
    if KEYS[13] then
      redis.call('SET', KEYS[13], ARGV[5] .. '|' .. hold_id, 'PX', ARGV[7])
    end
    redis.call('HSET', KEYS[1], 'seq', seq + 1, 'clock', now, 'due', due, 'held' .. counter, held - quantity,
      'sold' .. counter, sold + quantity)
    return { 'CONFIRMED', epoch, created, now, journal_id, places }
  end
end
-- The general way.

--- @include event
--- @include places
--- @include rows for loosen_rows
--- @include move
--- @include hold
--- @include trail
--- @include release
--- @include server
--- @include book
--- @keys

local hold_id, owner, attempt = ARGV[1], ARGV[2], ARGV[3]
local request = { details = ARGV[4], body = ARGV[5], scope = ARGV[6], once_ttl = ARGV[7], attempt = attempt }
local bytes_max = tonumber(ARGV[8])

local ev = read_event(keys, time)
if not ev then
  return { 'NOT_LOADED' }
end
local replayed = replay_booking(keys.once, request.body)
if replayed then
  return replayed
end
local known = find_booking(ev, hold_id, owner, attempt)
if known then
  return known
end
local hold = find_hold(ev, hold_id)
if not hold then
  return { status_of_ended(ev, hold_id, owner) }
end
if hold.owner ~= owner then
  return { 'NOT_FOUND' }
elseif hold.deadline <= ev.now then
  end_hold(ev, hold_id, hold, 'expired')
  move_due(ev, earliest_deadline(ev))
  write_event(ev)
  return { 'EXPIRED' }
elseif ev.status == 'cancelled' then
  return { 'NOT_OPEN', ev.status }
elseif is_journal_full(keys.journal, bytes_max, 0) then
  return { 'JOURNAL_FULL' }
end
local unaudited = refuse_unaudited(ev)
if unaudited then
  return unaudited
end

-- Nothing below refuses.
move_places(ev, parse_places(hold.places), 'held', 'sold')
redis.call('HDEL', keys.holds, hold_id)
redis.call('ZREM', keys.expiries, hold_id)
if hold.deadline <= ev.due then
  move_due(ev, earliest_deadline(ev))
end
note_hold(ev, hold_id, 'confirmed', ev.now, hold)
local booking = { owner = owner, quantity = hold.quantity, created = hold.created, places = hold.places }
return write_booking(ev, hold_id, booking, request, keys.once)
