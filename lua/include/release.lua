-- Giving places back: on expiry, on release, and when a booking is undone. Needs event, places, rows, move, hold,
-- trail.

local function forget_user_places(ev, owner, quantity)
  if redis.call('HINCRBY', ev.keys.users, owner, -quantity) <= 0 then
    redis.call('HDEL', ev.keys.users, owner)
  end
end

-- A hold ends without becoming a booking: `how` is 'expired' or 'released'.
local function end_hold(ev, hold_id, hold, how)
  move_places(ev, parse_places(hold.places), 'held', 'free')
  redis.call('HDEL', ev.keys.holds, hold_id)
  redis.call('ZREM', ev.keys.expiries, hold_id)
  forget_user_places(ev, hold.owner, hold.quantity)
  remember_end(ev, hold_id, how, hold.owner)
  local has_lapsed_then = how == 'expired' and hold.deadline > 0 -- unless nobody knows when that was
  note_hold(ev, hold_id, how, has_lapsed_then and hold.deadline or ev.now, hold)
  ev.seq = ev.seq + 1
end

local function earliest_deadline(ev)
  local first = redis.call('ZRANGE', ev.keys.expiries, 0, 0, 'WITHSCORES')
  return tonumber(first[2]) or NEVER
end
