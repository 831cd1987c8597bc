-- Ending holds whose deadline has passed. Needs event, places, rows, release.

local REAP_MAX = 64 -- holds ended by one call; about half a millisecond, with a few places each
local REAP_PLACES_MAX = 256 -- and places of them, but for the first hold

-- End due holds, a bounded number; returns how many. Afterwards ev.due <= ev.now says that more are due.
local function reap_due(ev)
  if ev.due > ev.now then
    return 0
  end
  local due = redis.call('ZRANGEBYSCORE', ev.keys.expiries, '-inf', ev.now, 'LIMIT', 0, REAP_MAX)
  local quantity = 0
  for i = 1, #due do
    local record = redis.call('HGET', ev.keys.holds, due[i])
    if record then
      local hold = parse_hold(record)
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
