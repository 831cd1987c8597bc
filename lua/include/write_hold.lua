-- A hold begins, once nothing can refuse it any more. Needs event, places, rows, move, trail; the event is written by
-- whoever calls.

-- `text` says the same as `places`.
local function write_hold(ev, hold_id, places, text, deadline, owner)
  move_places(ev, places, 'free', 'held')
  local record = 'active|' .. ev.now .. '|' .. deadline .. '|' .. places.quantity .. '|' .. text .. '|' .. owner
  redis.call('HSET', ev.keys.holds, hold_id, record)
  redis.call('ZADD', ev.keys.expiries, deadline, hold_id)
  redis.call('HINCRBY', ev.keys.users, owner, places.quantity)
  if deadline < ev.due then
    move_due(ev, deadline)
  end
  note_hold(ev, hold_id, record)
  ev.seq = ev.seq + 1
end
