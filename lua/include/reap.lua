-- Ending holds whose deadline has passed. Needs event, places, rows, hold, release.

local REAP_MAX = 64 -- holds ended by one call; about half a millisecond, with a few places each
local REAP_PLACES_MAX = 256 -- and places of them, but for the first hold

local BESIDES_MAX = 4 -- for each claim that may well get what it came for without: it should not have to wait for much

-- End due holds, a bounded number, and few of them `besides` so many claims; returns how many. Afterwards
-- ev.due <= ev.now says that more are due.
local function reap_due(ev, besides)
  if ev.due > ev.now then
    return 0
  end
  local maximum = math.min(besides and BESIDES_MAX * besides or REAP_MAX, REAP_MAX)
  local due = redis.call('ZRANGEBYSCORE', ev.keys.expiries, '-inf', ev.now, 'LIMIT', 0, maximum)
  local quantity = 0
  for i = 1, #due do
    local hold = find_hold(ev, due[i])
    if hold then
      quantity = quantity + hold.quantity
      if i > 1 and quantity > REAP_PLACES_MAX then
        break
      end
      end_hold(ev, due[i], hold, 'expired')
    else
      redis.call('ZREM', ev.keys.expiries, due[i]) -- drift, but no reason to stop selling
    end
  end
  move_due(ev, earliest_deadline(ev))
  write_event(ev)
  return #due
end
