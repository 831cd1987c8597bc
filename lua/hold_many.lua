#!lua
-- hold_many: claim places of one event for a while, every claim for itself: the usual ones of many, in one call.
--
-- KEYS[1] state     hash    the event's counters, limits and deadlines
-- KEYS[2] held      bitmap  cell = seat index x legs + leg
-- KEYS[3] sold      bitmap  the same
-- KEYS[4] holds     hash    hold id -> record
-- KEYS[5] expiries  zset    hold id scored by deadline_ms
-- KEYS[6] users     hash    customer -> places claimed
-- KEYS[7] rows      string  index of neighbours
-- KEYS[8] ended     hash    how the last holds ended
-- KEYS[9] wakeups   zset    event id scored by its earliest deadline
-- KEYS[10] trail    stream  what became of holds, for the history in Postgres
-- KEYS[11] once     string  optional: what an idempotency key was answered; one for each claim that has one, in order
--
-- ARGV[1] layout    digest of the layout that the places are numbered by
-- ARGV[2] once_ttl  ms for which idempotency keys are remembered
-- ARGV[3] claim     from here on, one each, at most CLAIMS_MAX: `hold_id|ttl|places|body|owner`, as hold_places takes
--                   them; one item on one leg, by number; no body where there is no idempotency key
--
-- Returns {'HELD', created_ms, answer for each claim}   its deadline_ms; {held, sold, next_release_ms, missing} where
--                                                       its places are taken; 'GENERAL': nothing was done about it
--         {'GENERAL'}                                   nothing was done about any

-- Granted, or refused because its places are taken, is what the straight path of hold_places would grant or refuse, by
-- the same checks, and each claim sees what those before it have taken. Every other one is handed back untouched, to be
-- claimed with hold_places under the same hold id: so there is no second way of the rest, and a call that runs twice
-- holds once.

--- @keys
--- @include bounds
--- @include event, places, rows, move, hold, trail, release, reap, end_lapsed for end_lapsed

local CLAIMS_MAX = 100 -- bounds how long everybody else waits: docs/decisions/0027
local LINES_PER_ENTRY = 10 -- of the trail, as in read_trail: an entry costs as much as ten lines, and is read whole
local FIRST, FIRST_ONCE = 3, 11
local CLAIM = '^([^|]+)|(%d+)|((%d+):(%d+);(%d+)([*#])(%d+))|([^|]*)|(.*)$'
local layout, once_ttl, count = ARGV[1], ARGV[2], #ARGV - FIRST + 1
if count < 1 or count > CLAIMS_MAX then
  return redis.error_reply('HF_BADARG claims: ' .. count)
end
local time = redis.call('TIME')
time = time[1] * 1000 + math.floor(time[2] / 1000)

-- Everything is read once: what is asked for, the state with the counters of those sections, records, customers' totals,
-- keys, cells. A claim is its number in several lists, not a table of its own, which would have to be made and collected.
local fields = { 'status', 'layout', 'closes', 'due', 'clock', 'seq', 'legs', 'max_hold', 'max_customer', 'ttl_max',
  'waiting', 'event', 'epoch' }
local FIXED, DUE, CLOCK, EPOCH = #fields, 4, 5, 13
local ids, ttls, texts, counters, seats, amounts, seat_legs, owners = {}, {}, {}, {}, {}, {}, {}, {}
local number_of, field_of, customers, customer_of, onces, once_of, bodies = {}, {}, {}, {}, {}, {}, {}
for i = 1, count do
  local hold_id, ttl, text, leg, last, section, kind, amount, body, owner = string.match(ARGV[i + FIRST - 1], CLAIM)
  if not hold_id or last - leg ~= 1 then
    return redis.error_reply('HF_BADARG claim: ' .. ARGV[i + FIRST - 1])
  end
  local name = section .. ':' .. leg
  local field = field_of[name]
  if not field then
    field = #fields + 1
    field_of[name], fields[field], fields[field + 1] = field, 'free:' .. name, 'held:' .. name
  end
  local number = number_of[owner]
  if not number then
    number = #customers + 1
    number_of[owner], customers[number] = number, owner
  end
  if body ~= '' then
    onces[#onces + 1], once_of[i], bodies[i] = KEYS[FIRST_ONCE + #onces], #onces + 1, body
  end
  ids[i], ttls[i], texts[i], owners[i], customer_of[i], counters[i] = hold_id, ttl, text, owner, number, field
  seats[i], amounts[i], seat_legs[i] = kind == '#' and tonumber(amount), kind == '#' and 1 or tonumber(amount), leg
end
local state = redis.call('HMGET', keys.state, unpack(fields))
if state[1] ~= 'open' or not state[EPOCH] then
  return { 'GENERAL' }
elseif math.max(time, state[CLOCK]) >= tonumber(state[DUE]) then
  end_lapsed(keys, time, count)
  state = redis.call('HMGET', keys.state, unpack(fields))
end
local _, known_layout, closes, due, clock, seq, legs, max_hold, max_customer, ttl_max, waiting, event_id =
  unpack(state, 1, FIXED)
local now = math.max(time, tonumber(clock))
if known_layout ~= layout or waiting or now >= tonumber(closes) then
  return { 'GENERAL' }
end
due, max_hold, max_customer, ttl_max = tonumber(due), tonumber(max_hold), tonumber(max_customer), tonumber(ttl_max)
local records = redis.call('HMGET', keys.holds, unpack(ids))
local totals = redis.call('HMGET', keys.users, unpack(customers))
local answered = {}
for number = 1, #onces do
  answered[number] = redis.call('EXISTS', onces[number]) == 1
end
-- Cells are read and written by bytes, which neighbours share: a claim of a seat is a byte's number and a bit in it.
local gets, byte_numbers, byte_of, bytes, bits = {}, {}, {}, {}, {}
for i = 1, count do
  if seats[i] then
    local cell = seats[i] * legs + seat_legs[i]
    local byte = math.floor(cell / 8)
    local number = byte_of[byte]
    if not number then
      number = #byte_numbers + 1
      byte_of[byte], byte_numbers[number] = number, byte
      gets[3 * number - 2], gets[3 * number - 1], gets[3 * number] = 'GET', 'u8', '#' .. byte
    end
    bytes[i], bits[i] = number, 2 ^ (7 - cell % 8)
  end
end
local held, sold = {}, {}
if #gets > 0 then
  held = redis.call('BITFIELD_RO', keys.held, unpack(gets))
  sold = redis.call('BITFIELD_RO', keys.sold, unpack(gets))
end

-- Claim by claim; `state`, `totals`, `taken` and `held` say what is so after the claims granted so far.
for field = FIXED + 1, #fields do
  state[field] = tonumber(state[field])
end
for number = 1, #customers do
  totals[number] = tonumber(totals[number] or 0)
end
local reply, granted, taken, earliest, is_general = { 'HELD', now }, {}, {}, due, true
for i = 1, count do
  local quantity, byte, field, customer, once = amounts[i], bytes[i], counters[i], customer_of[i], once_of[i]
  local free, total, key = state[field], totals[customer], onces[once]
  local answer = 'GENERAL'
  if free and quantity <= max_hold and total + quantity <= max_customer and not records[i] and not taken[ids[i]]
    and not (once and (answered[once] or taken[key]))
  then
    local is_sold = byte and bit.band(sold[byte], bits[i]) > 0
    local is_held = byte and not is_sold and bit.band(held[byte], bits[i]) > 0
    if not is_sold and not is_held and (byte or quantity <= free) then
      taken[ids[i]] = true
      if once then
        taken[key] = true
      end
      if byte then
        held[byte] = held[byte] + bits[i]
      end
      state[field], state[field + 1] = free - quantity, state[field + 1] + quantity
      totals[customer] = total + quantity
      granted[#granted + 1] = i
      answer = now + math.min(ttls[i], ttl_max)
      earliest = math.min(earliest, answer)
    elseif now < due then -- else what is in the way may have lapsed
      local missing, back, shortage = 1, is_held and 1 or 0, string.match(texts[i], ';(.*)')
      if not byte then
        missing = quantity - math.max(free, 0)
        back = math.min(math.max(state[field + 1], 0), missing)
        shortage = shortage .. ':' .. quantity - missing
      end
      answer = { back, missing - back, earliest < NEVER and earliest or 0, shortage }
    end
  end
  is_general = is_general and answer == 'GENERAL'
  reply[i + 2] = answer
end
if #granted == 0 then
  return is_general and { 'GENERAL' } or reply
end

-- Nothing below refuses. One command writes what all claims have in common.
local holds, deadlines, lines, users, changes = {}, {}, {}, {}, { 'seq', seq + #granted, 'clock', now }
local began = '|active|' .. now .. '|'
for n = 1, #granted do
  local i = granted[n]
  local id, text, deadline = ids[i], texts[i], reply[i + 2]
  local rest = '|' .. text .. '|' .. owners[i]
  holds[2 * n - 1], holds[2 * n] = id, 'a|' .. deadline - now .. rest
  deadlines[2 * n - 1], deadlines[2 * n] = deadline, id
  lines[2 * n - 1], lines[2 * n] = keys.state, id .. began .. deadline .. '|' .. amounts[i] .. rest
  users[2 * n - 1], users[2 * n] = owners[i], totals[customer_of[i]]
  if bodies[i] then
    local answer = bodies[i] .. '|' .. id .. '/' .. now .. '/' .. deadline .. '/' .. text
    redis.call('SET', onces[once_of[i]], answer, 'PX', once_ttl)
  end
end
-- Nothing is trimmed here: that is done by the lines that end holds.
for first = 1, #lines, 2 * LINES_PER_ENTRY do
  local last = math.min(first + 2 * LINES_PER_ENTRY - 1, #lines)
  redis.call('XADD', keys.trail, 'NOMKSTREAM', '*', unpack(lines, first, last))
end
for field = FIXED + 1, #fields do
  if state[field] then
    changes[#changes + 1], changes[#changes + 2] = fields[field], state[field]
  end
end
if earliest < due then -- the first holds of an event, or shorter ones than it had
  changes[#changes + 1], changes[#changes + 2] = 'due', earliest
  redis.call('ZADD', keys.wakeups, earliest, event_id)
end
redis.call('HSET', keys.holds, unpack(holds))
redis.call('ZADD', keys.expiries, unpack(deadlines))
redis.call('HSET', keys.users, unpack(users))
redis.call('HSET', keys.state, unpack(changes))
if #byte_numbers > 0 then
  local sets = {}
  for number = 1, #byte_numbers do
    sets[4 * number - 3], sets[4 * number - 2], sets[4 * number - 1], sets[4 * number] =
      'SET', 'u8', '#' .. byte_numbers[number], held[number]
  end
  redis.call('BITFIELD', keys.held, unpack(sets))
end
return reply
