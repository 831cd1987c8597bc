-- An event's state while a script runs: read once, changed in memory, written once by write_event.
--
-- Counters are fields `free:<section>:<leg>`, `held:…` and `sold:…` of the state hash. They are read when first needed
-- and written together, because one command with many fields costs a fraction of many commands. Needs bounds.

local FIELDS_PER_COMMAND = 2000 -- Lua's unpack gives up near 8000 values

-- The counters' fields of an item end in these: one `:<section>:<leg>` for each leg of the places.
local function counter_suffixes(places, item)
  local suffixes = item.suffixes
  if not suffixes then
    suffixes = { ':' .. item.section .. ':' .. places.first_text }
    for leg = places.first + 1, places.last - 1 do
      suffixes[#suffixes + 1] = ':' .. item.section .. ':' .. leg
    end
    item.suffixes = suffixes
  end
  return suffixes
end

-- Make sure that the counters `one` and `other` of an item are in ev.counters.
local function read_counters(ev, places, item, one, other)
  local suffixes, missing = counter_suffixes(places, item), {}
  for i = 1, #suffixes do
    if not ev.counters[one .. suffixes[i]] then
      missing[#missing + 1] = one .. suffixes[i]
    end
    if not ev.counters[other .. suffixes[i]] then
      missing[#missing + 1] = other .. suffixes[i]
    end
  end
  for start = 1, #missing, FIELDS_PER_COMMAND do
    local stop = math.min(start + FIELDS_PER_COMMAND - 1, #missing)
    local values = redis.call('HMGET', ev.keys.state, unpack(missing, start, stop))
    for i = start, stop do
      ev.counters[missing[i]] = tonumber(values[i - start + 1])
    end
  end
  return suffixes
end

-- Count an item's places over from one kind to the other.
local function move_counters(ev, places, item, from, to)
  local suffixes, counters = read_counters(ev, places, item, from, to), ev.counters
  for i = 1, #suffixes do
    local source, target = from .. suffixes[i], to .. suffixes[i]
    counters[source] = counters[source] - item.quantity
    counters[target] = counters[target] + item.quantity
  end
end

-- The event behind `keys` at the time `time`, or nil when its state is not in Redis, or is about to be built anew. The
-- counters that most claims need (of the first item and leg of `places`) come with it, in the same command; others are
-- read when they are asked for.
local function read_event(keys, time, places)
  local suffix = places and counter_suffixes(places, places[1])[1] or ':0:0'
  local free, held = 'free' .. suffix, 'held' .. suffix
  local values = redis.call('HMGET', keys.state, 'status', 'epoch', 'seq', 'clock', 'due', 'closes', 'layout', 'legs',
    'max_hold', 'max_customer', 'ttl_max', 'waiting', free, held)
  if not values[1] or not values[2] then -- a rebuild removes both first, and nothing else may be done in what is left
    return nil
  end
  local ev = {
    keys = keys,
    status = values[1],
    epoch = values[2],
    seq = tonumber(values[3]),
    now = math.max(time, tonumber(values[4])), -- never backwards, whatever the machine's clock does
    due = tonumber(values[5]),
    closes = tonumber(values[6]),
    layout = values[7],
    legs = tonumber(values[8]),
    max_hold = tonumber(values[9]),
    max_customer = tonumber(values[10]),
    ttl_max = tonumber(values[11]),
    waiting = values[12], -- false where nobody is in line; see line.lua
    -- field -> number: what has been read, and is written back by write_event
    counters = { [free] = tonumber(values[13]), [held] = tonumber(values[14]) },
  }
  if not (ev.seq and ev.due and ev.closes and ev.legs) then
    return nil -- damaged: that must show before anything is written, not in the middle of it
  end
  return ev
end

-- Write the event's seq, clock and counters: all that were read, for one command costs the same with a field more.
local function write_event(ev)
  local fields, count = { 'seq', ev.seq, 'clock', ev.now }, 4
  for field, value in pairs(ev.counters) do
    fields[count + 1], fields[count + 2] = field, value
    count = count + 2
  end
  for start = 1, count, FIELDS_PER_COMMAND do
    redis.call('HSET', ev.keys.state, unpack(fields, start, math.min(start + FIELDS_PER_COMMAND - 1, count)))
  end
end

-- The event's earliest deadline has changed: keep the partition's wake-up index in step with it.
local function move_due(ev, due)
  if due == ev.due then
    return
  end
  ev.due = due
  redis.call('HSET', ev.keys.state, 'due', due)
  local event_id = redis.call('HGET', ev.keys.state, 'event')
  if due == NEVER then
    redis.call('ZREM', ev.keys.wakeups, event_id)
  else
    redis.call('ZADD', ev.keys.wakeups, due, event_id)
  end
end
