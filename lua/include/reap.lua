-- Ending holds whose deadline has passed. Needs event, places, rows, release.

local REAP_MAX = 64 -- holds ended by one call; about half a millisecond

-- End due holds, a bounded number; returns how many. Afterwards ev.due <= ev.now says that more are due.
local function reap_due(ev)
  if ev.due > ev.now then
    return 0
  end
  local due = redis.call('ZRANGEBYSCORE', ev.keys.expiries, '-inf', ev.now, 'LIMIT', 0, REAP_MAX)
  for i = 1, #due do
    end_hold(ev, due[i], parse_hold(redis.call('HGET', ev.keys.holds, due[i])), 'expired')
  end
  move_due(ev, earliest_deadline(ev))
  write_event(ev)
  return #due
end
