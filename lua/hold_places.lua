#!lua
-- hold_places: claim places of one or several events for a while, all or nothing.
--
-- For each event:
-- KEYS[1] state     hash    the event's counters, limits and deadlines
-- KEYS[2] held      bitmap  cell = seat index x legs + leg
-- KEYS[3] sold      bitmap  the same
-- KEYS[4] holds     hash    hold id -> record
-- KEYS[5] expiries  zset    hold id scored by deadline_ms
-- KEYS[6] users     hash    customer -> places claimed
-- KEYS[7] rows      string  index of neighbours
-- KEYS[8] ended     hash    how the last holds ended
-- Then:
-- KEYS[9] wakeups   zset    event id scored by its earliest deadline
-- KEYS[10] trail    stream  what became of holds, for the history in Postgres
-- KEYS[11] once     string  optional: what the idempotency key was answered
--
-- ARGV[1] owner      customer id
-- ARGV[2] body       digest of the request's body; only looked at with an idempotency key
-- ARGV[3] once_ttl   ms for which the idempotency key is remembered
-- For each event:
-- ARGV[4] hold_id    chosen by the caller: running the same call twice holds once
-- ARGV[5] layout     digest of the layout that the places are numbered by
-- ARGV[6] places     `0:1;0*2;1#100,101;2?3`
-- ARGV[7] ttl        ms until the deadline
--
-- Returns {'HELD', {seq, created_ms, deadline_ms, places} for each event}
--         {'REPLAYED', {hold_id, created_ms, deadline_ms, places} for each event}   the key's first answer
--         {'KEY_REUSED'}                              the key came with another body
--         {'NOT_LOADED', n} {'STALE_LAYOUT', n}       of the nth event
--         {'NOT_OPEN', n, status}
--         {'LIMIT', n, limit, maximum}
--         {'LINE', n}                                 people in line have yet to be asked: offer_places first
--         {'UNAVAILABLE', held, sold, next_release_ms, {n, missing…} for each event}
--         {'CONTINUE'}                                a bounded amount was cleaned up: call again at once

-- The usual claim, straight through: one event, one item on one leg, nothing lapsed; granted, or refused because its
-- places are taken, as most claims of a rush are. Half and more of what the general way below costs is making functions
-- and tables; here there are none. Whatever is not usual falls through to it, and nothing has been written by then: this
-- must answer what the general way would, but need not answer whenever that would.

--- @include bounds

local time = redis.call('TIME') -- once: on Redis 7.0 it moves on while a script runs
time = time[1] * 1000 + math.floor(time[2] / 1000)
local leg, last, section, kind, amount
if #ARGV == 7 and not (KEYS[11] and redis.call('EXISTS', KEYS[11]) == 1) then
  leg, last, section, kind, amount = string.match(ARGV[6], '^(%d+):(%d+);(%d+)([*#])(%d+)$')
end
if leg and last - leg == 1 then
  local owner, hold_id, text = ARGV[1], ARGV[4], ARGV[6]
  local free_field, held_field = 'free:' .. section .. ':' .. leg, 'held:' .. section .. ':' .. leg
  local status, epoch, layout, closes, due, clock, seq, legs, max_hold, max_customer, ttl_max, waiting, free, held =
    unpack(redis.call('HMGET', KEYS[1], 'status', 'epoch', 'layout', 'closes', 'due', 'clock', 'seq', 'legs',
      'max_hold', 'max_customer', 'ttl_max', 'waiting', free_field, held_field))
  if status == 'open' and epoch and layout == ARGV[5] and not waiting then
    local now = math.max(time, tonumber(clock))
    local deadline = now + math.min(tonumber(ARGV[7]), tonumber(ttl_max))
    local is_seat = kind == '#'
    local quantity, cell = is_seat and 1 or tonumber(amount), is_seat and amount * legs + leg
    local rest = '|' .. text .. '|' .. owner -- of the record, as store_hold writes it, and of the trail's line
    due, held = tonumber(due), tonumber(held)
    if free and held and now < tonumber(closes) and now < due and quantity <= tonumber(max_hold)
      and (redis.call('HGET', KEYS[6], owner) or 0) + quantity <= tonumber(max_customer)
    then
      free = tonumber(free)
      local is_sold = is_seat and redis.call('GETBIT', KEYS[3], cell) == 1
      local is_held = is_seat and not is_sold and redis.call('GETBIT', KEYS[2], cell) == 1
      local back = is_held and 1 or 0 -- of what is missing, how many are held only
      local missing = (is_sold or is_held) and 1 or 0
      if not is_seat and quantity > free then
        missing = quantity - math.max(free, 0)
        back = math.min(math.max(held, 0), missing)
      end
      if missing > 0 then
        if not redis.call('HGET', KEYS[4], hold_id) then -- else its places are this very hold's
          local shortage = section .. kind .. amount .. (is_seat and '' or ':' .. amount - missing)
          return { 'UNAVAILABLE', back, missing - back, due < NEVER and due or 0, { 1, shortage } }
        end
      elseif due <= deadline and redis.call('HSETNX', KEYS[4], hold_id, 'a|' .. deadline - now .. rest) == 1 then
        -- The last check was the first write.
        if is_seat then
          redis.call('SETBIT', KEYS[2], cell, 1)
        end
        redis.call('ZADD', KEYS[5], deadline, hold_id)
        redis.call('HINCRBY', KEYS[6], owner, quantity)
        redis.call('HSET', KEYS[1], 'seq', seq + 1, 'clock', now, free_field, free - quantity, held_field, held + quantity)
        -- Nothing is trimmed here: that is done by the line that ends a hold, and every hold has one.
        redis.call('XADD', KEYS[10], 'NOMKSTREAM', '*', KEYS[1],
          hold_id .. '|active|' .. now .. '|' .. deadline .. '|' .. quantity .. rest)
        if KEYS[11] then
          redis.call('SET', KEYS[11], string.format('%s|%s/%d/%d/%s', ARGV[2], hold_id, now, deadline, text), 'PX',
            ARGV[3])
        end
        return { 'HELD', { seq + 1, now, deadline, text } }
      end
    end
  end
end
-- The general way.

--- @include event
--- @include places
--- @include rows for loosen_rows
--- @include move
--- @include rows, best for choose_seats
--- @include claim
--- @include line
--- @include hold
--- @include trail
--- @include write_hold
--- @include release, reap for reap_due

local KEYS_PER_EVENT, ARGS_PER_EVENT, SHARED_ARGS = 8, 4, 3
local event_count = (#ARGV - SHARED_ARGS) / ARGS_PER_EVENT
local wakeups = KEYS[KEYS_PER_EVENT * event_count + 1]
local trail = KEYS[KEYS_PER_EVENT * event_count + 2]
local once = KEYS[KEYS_PER_EVENT * event_count + 3]
local owner, body, once_ttl = ARGV[1], ARGV[2], ARGV[3]

local function keys_of(n)
  local base = KEYS_PER_EVENT * (n - 1)
  return {
    state = KEYS[base + 1],
    held = KEYS[base + 2],
    sold = KEYS[base + 3],
    holds = KEYS[base + 4],
    expiries = KEYS[base + 5],
    users = KEYS[base + 6],
    rows = KEYS[base + 7],
    ended = KEYS[base + 8],
    wakeups = wakeups,
    trail = trail,
  }
end

-- The first answer to the idempotency key, `body|hold_id/created/deadline/places …`.
local function replay(answer)
  local first_body, list = string.match(answer, '^([^|]*)|(.*)$')
  if first_body ~= body then
    return { 'KEY_REUSED' }
  end
  local reply = { 'REPLAYED' }
  for hold_id, created, deadline, places in string.gmatch(list, '(%S+)/(%d+)/(%d+)/(%S+)') do
    reply[#reply + 1] = { hold_id, tonumber(created), tonumber(deadline), places }
  end
  return reply
end

local check_claim

-- What stands in the way may have lapsed: end many of these, once, before the answer is that it does.
local function look_again(n, ev, has_reaped)
  if has_reaped then
    return { 'CONTINUE' }
  end
  reap_due(ev)
  return check_claim(n, true)
end

-- What the nth event says to the claim: a refusal, or nil and the claim ready to be written.
check_claim = function(n, has_reaped)
  local base = SHARED_ARGS + ARGS_PER_EVENT * (n - 1)
  local places = parse_places(ARGV[base + 3])
  if not places then
    return redis.error_reply('HF_BADARG places: ' .. ARGV[base + 3])
  end
  local claim = { hold_id = ARGV[base + 1], places = places, text = ARGV[base + 3], missing = { n, held = 0, sold = 0 } }
  local ev = read_event(keys_of(n), time, places)
  if not ev then
    return { 'NOT_LOADED', n }
  elseif ev.layout ~= ARGV[base + 2] then
    return { 'STALE_LAYOUT', n }
  end
  claim.ev = ev
  claim.again = find_hold(ev, claim.hold_id)
  if claim.again then
    return nil, claim
  end
  reap_due(ev, 1)
  if ev.status ~= 'open' or ev.now >= ev.closes then
    return { 'NOT_OPEN', n, ev.status == 'open' and 'closed' or ev.status }
  end
  claim.deadline = ev.now + math.min(tonumber(ARGV[base + 4]), ev.ttl_max)
  local limit, maximum = check_limits(ev, places, owner)
  if limit then
    if ev.due <= ev.now then
      return look_again(n, ev, has_reaped) -- a lapsed hold of this customer may still count
    end
    return { 'LIMIT', n, limit, maximum }
  elseif line_is_first(ev) then
    return { 'LINE', n }
  end
  if not check_places(ev, places, claim.missing) then
    return { 'CONTINUE' }
  elseif #claim.missing > 1 and ev.due <= ev.now then
    return look_again(n, ev, has_reaped)
  end
  return nil, claim
end

local function write_claim(claim)
  local ev, places = claim.ev, claim.places
  local text = places.chosen and format_places(places) or claim.text
  write_hold(ev, claim.hold_id, places, text, claim.deadline, owner)
  write_event(ev)
  return { ev.seq, ev.now, claim.deadline, text }
end

if once then
  local answer = redis.call('GET', once)
  if answer then
    return replay(answer)
  end
end

local claims, unavailable = {}, { 'UNAVAILABLE', 0, 0, 0 }
for n = 1, event_count do
  local refusal, claim = check_claim(n)
  if refusal then
    return refusal
  end
  claims[n] = claim
  if #claim.missing > 1 then
    local release_at = next_release(claim.ev)
    unavailable[2] = unavailable[2] + claim.missing.held
    unavailable[3] = unavailable[3] + claim.missing.sold
    if release_at > 0 and (unavailable[4] == 0 or release_at < unavailable[4]) then
      unavailable[4] = release_at
    end
    unavailable[#unavailable + 1] = claim.missing
  end
end
if #unavailable > 4 then
  return unavailable
end

-- Nothing below refuses.
local reply = { 'HELD' }
for n = 1, event_count do
  local claim = claims[n]
  local again = claim.again
  reply[n + 1] = again and { claim.ev.seq, again.created, again.deadline, again.places } or write_claim(claim)
end
if once then
  local memory = {}
  for n = 1, event_count do
    local _, created, deadline, places = unpack(reply[n + 1])
    memory[n] = claims[n].hold_id .. '/' .. created .. '/' .. deadline .. '/' .. places
  end
  redis.call('SET', once, body .. '|' .. table.concat(memory, ' '), 'PX', once_ttl)
end
return reply
