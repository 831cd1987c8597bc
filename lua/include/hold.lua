-- What is known of a hold: its record while it lives, and for a while how it ended. Needs event.

-- `phase|lifetime_ms|places|owner`; the owner comes last because it may contain anything. The phase is `a`, active, or
-- `p`, paying, once a payment has begun. The deadline stands in `expiries` and nowhere else, and the creation is a
-- lifetime before that (docs/decisions/0032).
local PHASES = { a = 'active', p = 'paying' }

local function count_places(text)
  local quantity = 0
  for kind, claim in string.gmatch(text, '([*#])([%d,]+)') do
    local _, commas = string.gsub(claim, ',', '')
    quantity = quantity + (kind == '*' and tonumber(claim) or commas + 1)
  end
  return quantity
end

-- A hold whose deadline was lost has lapsed.
local function parse_hold(record, deadline)
  local phase, lifetime, places, owner = string.match(record, '^([ap])|(%d+)|([^|]*)|(.*)$')
  if phase then
    deadline = tonumber(deadline) or 0
    return {
      phase = PHASES[phase],
      created = math.max(deadline - lifetime, 0),
      deadline = deadline,
      quantity = count_places(places),
      places = places,
      owner = owner,
    }
  end
  -- As it was written at first: `active|created_ms|deadline_ms|quantity|places|owner`.
  local created, quantity
  phase, created, deadline, quantity, places, owner =
    string.match(record, '^(%a+)|(%d+)|(%d+)|(%d+)|([^|]*)|(.*)$')
  return {
    phase = phase,
    created = tonumber(created),
    deadline = tonumber(deadline),
    quantity = tonumber(quantity),
    places = places,
    owner = owner,
  }
end

-- The live hold of this id, lapsed or not; nil where there is none.
local function find_hold(ev, hold_id)
  local record = redis.call('HGET', ev.keys.holds, hold_id)
  return record and parse_hold(record, redis.call('ZSCORE', ev.keys.expiries, hold_id))
end

local function store_hold(ev, hold_id, hold)
  local phase, lifetime = string.sub(hold.phase, 1, 1), hold.deadline - hold.created
  redis.call('HSET', ev.keys.holds, hold_id, phase .. '|' .. lifetime .. '|' .. hold.places .. '|' .. hold.owner)
  redis.call('ZADD', ev.keys.expiries, hold.deadline, hold_id)
end

-- The memory of what has ended is a table of fixed size, addressed by the id's last characters: a later one overwrites
-- it sooner or later, so it needs no sweeping and cannot grow. `how`: 'expired', 'refused', or 'released', which may be
-- followed by a colon and the attempt that released it.
local function remember_end(ev, hold_id, how, owner)
  redis.call('HSET', ev.keys.ended, string.sub(hold_id, -3), hold_id .. '|' .. how .. '|' .. owner)
end

-- How a hold that is not live ended, as a status, for its owner ('' asks for anybody).
local function status_of_ended(ev, hold_id, owner)
  local memory = redis.call('HGET', ev.keys.ended, string.sub(hold_id, -3))
  if memory then
    local id, how, whose = string.match(memory, '^([^|]*)|([^|]*)|(.*)$')
    if id == hold_id and (owner == '' or owner == whose) then
      return string.upper(string.match(how, '^%a+'))
    end
  end
  return 'NOT_FOUND'
end

-- The request that released a hold which is known to have been released; nil where that is not known.
local function attempt_that_ended(ev, hold_id)
  return string.match(redis.call('HGET', ev.keys.ended, string.sub(hold_id, -3)), '^[^|]*|released:([^|]*)|')
end

-- Whether the hold has become a booking of this owner ('' asks for anybody).
local function booked_by(ev, hold_id, owner)
  local record = redis.call('HGET', ev.keys.bookings, hold_id)
  return record and (owner == '' or owner == string.match(record, '^%d+|%d+|[^|]*|[^|]*|%d+|[^|]*|(.*)$'))
end
