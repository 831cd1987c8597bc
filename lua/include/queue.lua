-- Coming to the line and leaving it. Needs event, places.

-- Each item of an entry, as it is counted in `wanted`: `0:1;0*2`, `0:1;1#3` or `0:1;1?3`, a number of places on some legs.
local function count_wanted(keys, places, change)
  for i = 1, #places do
    local item = places[i]
    local field = places.first .. ':' .. places.last .. ';' .. item.section .. item.kind .. item.quantity
    if redis.call('HINCRBY', keys.wanted, field, change) <= 0 then
      redis.call('HDEL', keys.wanted, field)
    end
  end
end

-- `standing|places|owner`; the standing is 'new', or 'told' once it is told that its turn has passed it over.
local function parse_entry(record)
  return string.match(record, '^(%a+)|([^|]*)|(.*)$')
end

local function enter_line(keys, event_id, entry, score, text, owner)
  if redis.call('HSETNX', keys.entries, entry, 'new|' .. text .. '|' .. owner) == 1 then
    count_wanted(keys, parse_places(text), 1)
  end
  redis.call('ZADD', keys.waitlist, score, entry)
  redis.call('HSET', keys.state, 'waiting', '0')
  redis.call('SADD', keys.lines, event_id)
end

-- The event is in `lines` while anybody is in its line, or has yet to be told something.
local function tidy_line(keys, event_id)
  if redis.call('EXISTS', keys.waitlist) == 1 then
    return
  end
  redis.call('HDEL', keys.state, 'waiting')
  if redis.call('EXISTS', keys.notices) == 0 then
    redis.call('SREM', keys.lines, event_id)
  end
end

local function leave_queue(keys, entry)
  local record = redis.call('HGET', keys.entries, entry)
  if record then
    local _, text = parse_entry(record)
    count_wanted(keys, parse_places(text), -1)
    redis.call('HDEL', keys.entries, entry)
  end
  return redis.call('ZREM', keys.waitlist, entry) == 1
end
