-- A hold begins, once nothing can refuse it any more. Needs event, places, rows, move, hold, trail; the event is written by
-- whoever calls.

-- `text` says the same as `places`.
local function write_hold(ev, hold_id, places, text, deadline, owner)
  move_places(ev, places, 'free', 'held')
  local hold = { phase = 'active', created = ev.now, deadline = deadline, places = text, owner = owner }
  hold.quantity = places.quantity
  store_hold(ev, hold_id, hold)
  redis.call('HINCRBY', ev.keys.users, owner, places.quantity)
  if deadline < ev.due then
    move_due(ev, deadline)
  end
  note_hold(ev, hold_id, 'active', deadline, hold)
  ev.seq = ev.seq + 1
end
