#!lua
-- confirm_many: turn holds of one event into bookings, each for itself: the usual confirmations of many, in one call.
--
-- KEYS[1] state     hash    the event's counters, limits and deadlines
-- KEYS[2] held      bitmap  cell = seat index x legs + leg
-- KEYS[3] sold      bitmap  the same
-- KEYS[4] holds     hash    hold id -> record
-- KEYS[5] expiries  zset    hold id scored by deadline_ms
-- KEYS[6] bookings  hash    booking id -> record
-- KEYS[7] journal   stream  bookings not yet known to be in Postgres
-- KEYS[8] wakeups   zset    event id scored by its earliest deadline
-- KEYS[9] trail     stream  what became of holds, for the history in Postgres
-- KEYS[10] once     string  optional: what an idempotency key was answered; one for each request with one, in order
--
-- ARGV[1] once_ttl   ms for which idempotency keys are remembered
-- ARGV[2] bytes_max  memory of the journal past which it takes no more entries
-- ARGV[3] request    from here on, six each, of at most REQUESTS_MAX: hold_id, owner, attempt, details, body, scope, as
--                    confirm_hold takes them; no scope where there is no idempotency key
--
-- Returns {'CONFIRMED', {epoch, confirmed_ms}, answer for each}   {created_ms, journal_id, places}; 'GENERAL': nothing
--                                                                 was done about it
--         {'GENERAL'}                                             nothing was done about any

-- What is confirmed is what the straight path of confirm_hold would confirm, by the same checks. Every other request is
-- handed back untouched, to be made with confirm_hold as the same attempt: so there is one way of each refusal, and a
-- call that runs twice books once.

--- @keys
--- @include bounds
--- @include journal_bound
--- @include server

local REQUESTS_MAX = 100 -- bounds how long everybody else waits: docs/decisions/0027
local ARGUMENTS = 6 -- of a request
local FIRST, FIRST_ONCE = 3, 10
local once_ttl, bytes_max, count = ARGV[1], tonumber(ARGV[2]), (#ARGV - FIRST + 1) / ARGUMENTS
if count < 1 or count > REQUESTS_MAX or count % 1 ~= 0 then
  return redis.error_reply('HF_BADARG requests: ' .. count)
end
local time = redis.call('TIME')
time = time[1] * 1000 + math.floor(time[2] / 1000)

-- Everything is read once: the holds, the state with the counters of their sections, deadlines, bookings, keys. A
-- request is its number in several lists.
local ids, once_of, onces = {}, {}, {}
for i = 1, count do
  local first = FIRST + (i - 1) * ARGUMENTS
  ids[i] = ARGV[first]
  if ARGV[first + 5] ~= '' then
    onces[#onces + 1], once_of[i] = KEYS[FIRST_ONCE + #onces], #onces + 1
  end
end
local records = redis.call('HMGET', keys.holds, unpack(ids))
local fields = { 'status', 'event', 'epoch', 'audited', 'seq', 'clock', 'due', 'legs' }
local FIXED = #fields
local lifetimes, texts, field_of, counters, cells, amounts = {}, {}, {}, {}, {}, {}
for i = 1, count do
  local lifetime, places, leg, last, section, kind, amount, whose =
    string.match(records[i] or '', '^[ap]|(%d+)|((%d+):(%d+);(%d+)([*#])(%d+))|(.*)$')
  if whose == ARGV[FIRST + (i - 1) * ARGUMENTS + 1] and last - leg == 1 then
    local name = section .. ':' .. leg
    local field = field_of[name]
    if not field then
      field = #fields + 1
      field_of[name], fields[field], fields[field + 1] = field, 'held:' .. name, 'sold:' .. name
    end
    lifetimes[i], texts[i], counters[i] = lifetime, places, field
    amounts[i], cells[i] = kind == '#' and 1 or tonumber(amount), kind == '#' and { amount, leg }
  end
end
local state = redis.call('HMGET', keys.state, unpack(fields))
local status, event_id, epoch, audited, seq, clock, due, legs = unpack(state, 1, FIXED)
-- Damage must show before anything is written, not in the middle of it: then it would be others' bookings that suffer.
seq, legs = tonumber(seq), tonumber(legs)
for field = FIXED + 1, #fields do
  state[field] = tonumber(state[field])
end
-- A rebuild removes status and epoch before the journal is drained for the last time: nothing is booked behind it.
if not (status and epoch and event_id and seq and tonumber(due) and legs) or status == 'cancelled'
  or audited ~= server_id() or is_journal_full(keys.journal, bytes_max, count - 1)
then
  return { 'GENERAL' }
end
local now = math.max(time, tonumber(clock or 0))
local deadlines = redis.call('ZMSCORE', keys.expiries, unpack(ids))
local bookings = redis.call('HMGET', keys.bookings, unpack(ids))
local answered = {}
for number = 1, #onces do
  answered[number] = redis.call('EXISTS', onces[number]) == 1
end

-- Request by request; `taken` says which holds and keys are confirmed so far.
local reply, confirmed, taken, earliest = { 'CONFIRMED', { epoch, now } }, {}, {}, NEVER
for i = 1, count do
  local id, field, once, deadline = ids[i], counters[i], once_of[i], tonumber(deadlines[i] or 0)
  local key = onces[once]
  if field and state[field] and state[field + 1] and now < deadline and not bookings[i] and not taken[id]
    and not (once and (answered[once] or taken[key]))
  then
    taken[id], earliest = true, math.min(earliest, deadline)
    if once then
      taken[key] = true
    end
    confirmed[#confirmed + 1] = i
  end
  reply[i + 2] = 'GENERAL'
end
if #confirmed == 0 then
  return { 'GENERAL' }
end

-- Nothing below refuses.
local gone, entered, held_bits, sold_bits = {}, {}, {}, {}
for n = 1, #confirmed do
  local i = confirmed[n]
  local first, field, quantity, places, cell = FIRST + (i - 1) * ARGUMENTS, counters[i], amounts[i], texts[i], cells[i]
  local id, owner, attempt, details, body, scope = unpack(ARGV, first, first + ARGUMENTS - 1)
  local created, rest = math.max(deadlines[i] - lifetimes[i], 0), quantity .. '|' .. places .. '|' .. owner
  state[field], state[field + 1] = state[field] - quantity, state[field + 1] + quantity
  if cell then
    local last, number = #held_bits, cell[1] * legs + cell[2]
    held_bits[last + 1], held_bits[last + 2], held_bits[last + 3], held_bits[last + 4] = 'SET', 'u1', number, 0
    sold_bits[last + 1], sold_bits[last + 2], sold_bits[last + 3], sold_bits[last + 4] = 'SET', 'u1', number, 1
  end
  redis.call('XADD', keys.trail, 'NOMKSTREAM', 'MAXLEN', '~', TRAIL_MAX, '*', keys.state,
    id .. '|confirmed|' .. created .. '|' .. now .. '|' .. rest)
  local journal_id = redis.call('XADD', keys.journal, '*', 'event', event_id, 'epoch', epoch, 'booking', id,
    'owner', owner, 'places', places, 'created', created, 'confirmed', now, 'details', details, 'once', scope,
    'body', body)
  gone[n] = id
  entered[2 * n - 1], entered[2 * n] =
    id, now .. '|' .. created .. '|' .. journal_id .. '|' .. attempt .. '|' .. rest
  if once_of[i] then
    redis.call('SET', onces[once_of[i]], body .. '|' .. id, 'PX', once_ttl)
  end
  reply[i + 2] = { created, journal_id, places }
end
-- One command writes what all have in common.
redis.call('HSET', keys.bookings, unpack(entered))
redis.call('HDEL', keys.holds, unpack(gone))
redis.call('ZREM', keys.expiries, unpack(gone))
if #held_bits > 0 then
  redis.call('BITFIELD', keys.held, unpack(held_bits))
  redis.call('BITFIELD', keys.sold, unpack(sold_bits))
end
if earliest <= tonumber(due) then
  local first = redis.call('ZRANGE', keys.expiries, 0, 0, 'WITHSCORES')[2]
  if not first then
    redis.call('ZREM', keys.wakeups, event_id)
  elseif first ~= due then
    redis.call('ZADD', keys.wakeups, first, event_id)
  end
  due = first or NEVER
end
local changes = { 'seq', seq + #gone, 'clock', now, 'due', due }
for field = FIXED + 1, #fields do
  if state[field] then
    changes[#changes + 1], changes[#changes + 2] = fields[field], state[field]
  end
end
redis.call('HSET', keys.state, unpack(changes))
return reply
