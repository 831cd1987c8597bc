#!lua
-- offer_places: hold what is free for people in line, in their order, and say what the ledger has yet to hear of it.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  held      bitmap  cell = seat index x legs + leg
-- KEYS[3]  sold      bitmap  the same
-- KEYS[4]  holds     hash    hold id -> record
-- KEYS[5]  expiries  zset    hold id scored by deadline_ms
-- KEYS[6]  users     hash    customer -> places claimed
-- KEYS[7]  rows      string  index of neighbours
-- KEYS[8]  ended     hash    how the last holds ended
-- KEYS[9]  waitlist  zset    entry scored by priority and time
-- KEYS[10] entries   hash    entry -> what it waits for, and who
-- KEYS[11] wanted    hash    what the line waits for -> by how many entries
-- KEYS[12] notices   hash    entry -> what Postgres has yet to hear of it
-- KEYS[13] wakeups   zset    event id scored by its earliest deadline
-- KEYS[14] trail     stream  what became of holds, for the history in Postgres
-- KEYS[15] lines     set     events that somebody is in line for
--
-- ARGV[1]  event_id
-- ARGV[2]  ttl        ms for which an offer stands; never past the end of sale
--
-- Returns {'ASKED', {entry, notice}…}   nobody in line could use what is free; some of the notices, if there are many
--         {'CONTINUE'}                  a bounded number was asked, or of lapsed holds ended: call again at once
--         {'NOT_LOADED'}                the event's state is not in Redis

--- @include clock
--- @include bounds
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
--- @include queue
--- @include release, reap for reap_due
--- @keys

local event_id, ttl = ARGV[1], tonumber(ARGV[2])
local ASKED_MAX = 100 -- entries asked by one call: a millisecond where each wants something else, and cannot have it
local OFFERS_MAX = 32 -- offers made by one call; about half a millisecond, with a few places each
local OFFERED_PLACES_MAX = 256 -- and places of them, but for the first
local NOTICES_SAMPLE = 100 -- told at a time: about as many

-- Whether as many places are free, on every leg, as the item asks for. Of seats it says no more than that they might be.
local function is_hopeful(ev, places, item)
  local suffixes = read_counters(ev, places, item, 'free', 'held')
  for i = 1, #suffixes do
    if ev.counters['free' .. suffixes[i]] < item.quantity then
      return false
    end
  end
  return true
end

-- Whether what is free could be enough for anybody: one look at what is wanted, however many want it.
local function is_anybody_hopeful(ev)
  local wanted = redis.call('HGETALL', keys.wanted)
  for i = 1, #wanted, 2 do
    local first, last, section, quantity = string.match(wanted[i], '^(%d+):(%d+);(%d+)[*#?](%d+)$')
    local places = { first = tonumber(first), last = tonumber(last), first_text = first }
    if is_hopeful(ev, places, { section = section, quantity = tonumber(quantity) }) then
      return true
    end
  end
  return false
end

-- Why the entry's turn passes it over, or nil: 'missing' what it wants; 'limit', which it is told once; or 'unfinished'.
local function find_obstacle(ev, entry, standing, places, text, owner)
  for i = 1, #places do
    if not is_hopeful(ev, places, places[i]) then
      return 'missing'
    end
  end
  local missing = { held = 0, sold = 0 }
  if not check_places(ev, places, missing) then
    return 'unfinished'
  elseif #missing > 0 then
    return 'missing'
  end
  local limit, maximum = check_limits(ev, places, owner)
  if limit then
    if standing == 'new' then
      redis.call('HSET', keys.entries, entry, 'told|' .. text .. '|' .. owner)
      redis.call('HSET', keys.notices, entry, 'passed|' .. limit .. '|' .. maximum)
    end
    return 'limit'
  end
end

local function offer(ev, entry, places, text, owner)
  local deadline = math.min(ev.now + ttl, ev.closes)
  local chosen = places.chosen and format_places(places) or text
  leave_queue(keys, entry) -- before the wish becomes seats: it is counted as it came
  write_hold(ev, entry, places, chosen, deadline, owner)
  redis.call('HSET', keys.notices, entry, 'offered|' .. ev.now .. '|' .. deadline .. '|' .. chosen)
end

-- Ask a bounded number of those in line, from the rank on that the last call has come to; answers where it came to.
local function ask_line(ev)
  local rank, offers, quantity = tonumber(ev.waiting), 0, 0
  local line = redis.call('ZRANGE', keys.waitlist, rank, rank + ASKED_MAX - 1)
  if #line == 0 or not is_anybody_hopeful(ev) then
    return 'asked'
  end
  local records = redis.call('HMGET', keys.entries, unpack(line))
  local hopeless = {} -- wishes that could not be had: nothing comes free meanwhile, and many wish for the same
  for i = 1, #line do
    local standing, text, owner = parse_entry(records[i] or '')
    local places = text and not hopeless[text] and parse_places(text)
    if not text then
      redis.call('ZREM', keys.waitlist, line[i]) -- drift; the reconciler puts it back in line
    elseif not places then
      rank = rank + 1
    elseif offers == OFFERS_MAX or (offers > 0 and quantity + places.quantity > OFFERED_PLACES_MAX) then
      return tostring(rank)
    else
      local obstacle = find_obstacle(ev, line[i], standing, places, text, owner)
      if obstacle == 'unfinished' then
        return tostring(rank)
      elseif obstacle then
        rank = rank + 1
        hopeless[text] = obstacle == 'missing'
      else
        offer(ev, line[i], places, text, owner)
        offers, quantity = offers + 1, quantity + places.quantity
        if not is_anybody_hopeful(ev) then
          return 'asked'
        end
      end
    end
  end
  return #line < ASKED_MAX and 'asked' or tostring(rank)
end

local ev = read_event(keys, read_clock())
if not ev then
  return { 'NOT_LOADED' }
end
reap_due(ev)
if ev.due <= ev.now then
  return { 'CONTINUE' } -- lapsed holds that are not ended yet would pass somebody over, for a limit or for want of places
end
if line_is_first(ev) and ev.status == 'open' and ev.now < ev.closes then
  ev.waiting = ask_line(ev)
  redis.call('HSET', keys.state, 'waiting', ev.waiting)
  write_event(ev)
  if line_is_first(ev) then
    return { 'CONTINUE' }
  end
end
tidy_line(keys, event_id)
local _, told = unpack(redis.call('HSCAN', keys.notices, 0, 'COUNT', NOTICES_SAMPLE))
local reply = { 'ASKED' }
for i = 1, #told, 2 do
  reply[#reply + 1] = { told[i], told[i + 1] }
end
return reply
