#!lua
-- hold_many: claim places of one event for a while, every claim for itself: the usual ones of many, in one call.
--
-- KEYS[1] state     hash    the event's counters, limits and deadlines
-- KEYS[2] held      bitmap  cell = seat index x legs + leg
-- KEYS[3] sold      bitmap  the same
-- KEYS[4] holds     hash    hold id -> record
-- KEYS[5] expiries  zset    hold id scored by deadline_ms
-- KEYS[6] users     hash    customer -> places claimed
-- KEYS[7] wakeups   zset    event id scored by its earliest deadline
-- KEYS[8] trail     stream  what became of holds, for the history in Postgres
--
-- ARGV[1] owner   customer id of all claims
-- ARGV[2] layout  digest of the layout that the places are numbered by
-- ARGV[3] claim   from here on, one each: `hold_id|ttl|places`, as hold_places takes them; at most CLAIMS_MAX
--
-- Returns {'HELD', created_ms, deadline_ms or 'GENERAL' for each claim}   GENERAL: nothing was done about that one
--         {'GENERAL'}                                                     nothing was done about any

-- Granted is what the straight way of hold_places grants, by the same checks, and each claim sees what those before it
-- have taken. Whatever is not usual, every refusal included, is handed back untouched, to be claimed with hold_places
-- under the same hold id: so there is no second way to refuse, and a call that runs twice holds once.

--- @keys

local CLAIMS_MAX = 100 -- bounds how long everybody else waits: docs/decisions/0027
local LINES_PER_ENTRY = 10 -- of the trail, as in read_trail: an entry costs as much as ten lines, and is read whole
local FIRST = 3
local owner, layout, count = ARGV[1], ARGV[2], #ARGV - FIRST + 1
if count > CLAIMS_MAX then
  return redis.error_reply('HF_BADARG claims: ' .. count)
end
local time = redis.call('TIME')
time = time[1] * 1000 + math.floor(time[2] / 1000)

-- Everything is read once: what is asked for, the state with the counters of those sections, records, cells. A claim is
-- its number in several lists, not a table of its own, which would have to be made and collected.
local fields = { 'status', 'layout', 'closes', 'due', 'clock', 'seq', 'legs', 'max_hold', 'max_customer', 'ttl_max',
  'waiting', 'event' }
local FIXED = #fields
local field_of = {}
local numbers, ids, ttls, texts, counters, seats, amounts, seat_legs = {}, {}, {}, {}, {}, {}, {}, {}
for n = 1, count do
  local hold_id, ttl, text, leg, last, section, kind, amount =
    string.match(ARGV[n + FIRST - 1], '^([^|]+)|(%d+)|((%d+):(%d+);(%d+)([*#])(%d+))$')
  if hold_id and last - leg == 1 then
    local name = section .. ':' .. leg
    local field = field_of[name]
    if not field then
      field = #fields + 1
      field_of[name], fields[field], fields[field + 1] = field, 'free:' .. name, 'held:' .. name
    end
    local i = #ids + 1
    numbers[i], ids[i], ttls[i], texts[i], counters[i] = n, hold_id, tonumber(ttl), text, field
    seats[i], amounts[i], seat_legs[i] = kind == '#' and tonumber(amount), kind == '#' and 1 or tonumber(amount), leg
  end
end
local state = redis.call('HMGET', keys.state, unpack(fields))
local status, known_layout, closes, due, clock, seq, legs, max_hold, max_customer, ttl_max, waiting, event_id =
  unpack(state, 1, FIXED)
if #ids == 0 or status ~= 'open' or known_layout ~= layout or waiting then
  return { 'GENERAL' }
end
local now = math.max(time, tonumber(clock))
due, max_hold, max_customer, ttl_max = tonumber(due), tonumber(max_hold), tonumber(max_customer), tonumber(ttl_max)
if now >= tonumber(closes) or now >= due then
  return { 'GENERAL' }
end
local records = redis.call('HMGET', keys.holds, unpack(ids))
-- Cells are read and written by bytes, which neighbours share: a claim of a seat is a byte's number and a bit in it.
local gets, byte_numbers, number_of, bytes, bits = {}, {}, {}, {}, {}
for i = 1, #ids do
  if seats[i] then
    local cell = seats[i] * legs + seat_legs[i]
    local byte = math.floor(cell / 8)
    local number = number_of[byte]
    if not number then
      number = #byte_numbers + 1
      number_of[byte], byte_numbers[number] = number, byte
      gets[3 * number - 2], gets[3 * number - 1], gets[3 * number] = 'GET', 'u8', '#' .. byte
    end
    bytes[i], bits[i] = number, 2 ^ (7 - cell % 8)
  end
end
local held, occupied = {}, {}
if #gets > 0 then
  held = redis.call('BITFIELD_RO', keys.held, unpack(gets))
  local sold = redis.call('BITFIELD_RO', keys.sold, unpack(gets))
  for number = 1, #byte_numbers do
    occupied[number] = bit.bor(held[number], sold[number])
  end
end

-- Claim by claim; `state`, `claimed`, `taken`, `held` and `occupied` say what is so after the claims granted so far.
for field = FIXED + 1, #fields do
  state[field] = tonumber(state[field])
end
local claimed, taken = tonumber(redis.call('HGET', keys.users, owner) or 0), {}
local before, earliest = claimed, due
local reply, granted = { 'HELD', now }, {}
for n = 1, count do
  reply[n + 2] = 'GENERAL'
end
for i = 1, #ids do
  local quantity, byte, field = amounts[i], bytes[i], counters[i]
  local free = state[field]
  if free and quantity <= max_hold and quantity <= free and claimed + quantity <= max_customer
    and not (byte and bit.band(occupied[byte], bits[i]) > 0)
    and not records[i] and not taken[ids[i]]
  then
    taken[ids[i]] = true
    if byte then
      held[byte], occupied[byte] = held[byte] + bits[i], occupied[byte] + bits[i]
    end
    state[field], state[field + 1] = free - quantity, state[field + 1] + quantity
    claimed = claimed + quantity
    granted[#granted + 1] = i
    local deadline = now + math.min(ttls[i], ttl_max)
    earliest = math.min(earliest, deadline)
    reply[numbers[i] + 2] = deadline
  end
end
if #granted == 0 then
  return { 'GENERAL' }
end

-- Nothing below refuses. One command writes what all claims have in common.
local holds, deadlines, lines, changes = {}, {}, {}, { 'seq', seq + #granted, 'clock', now }
local began, ending = '|active|' .. now .. '|', '|' .. owner
for n = 1, #granted do
  local i = granted[n]
  local deadline = reply[numbers[i] + 2]
  local rest = '|' .. texts[i] .. ending
  holds[2 * n - 1], holds[2 * n] = ids[i], 'a|' .. deadline - now .. rest
  deadlines[2 * n - 1], deadlines[2 * n] = deadline, ids[i]
  lines[2 * n - 1], lines[2 * n] = keys.state, ids[i] .. began .. deadline .. '|' .. amounts[i] .. rest
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
redis.call('HINCRBY', keys.users, owner, claimed - before)
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
