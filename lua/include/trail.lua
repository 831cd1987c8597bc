-- The trail: what became of every hold, line by line, on its way to the history in Postgres (docs/keys.md, `trail`).
--
-- A line says all that is known of its hold, so that it stands for itself when others are lost: the claim key, and then
-- `how|created_ms|until_ms|quantity|places|owner`. The event is in the name of the line's field, the key of its state,
-- because that is at hand; an entry has one field, or several where hold_many wrote it. There is a stream where history
-- is kept, and nothing is added without one: so no script needs to be told. Needs bounds.

-- `how` is 'active' for a hold that was made or whose deadline was moved, and 'expired', 'released', 'confirmed' or
-- 'refused' for one, or the booking it became, that has ended; `until_ms` its deadline, or when that was.
local function note_hold(ev, hold_id, how, until_ms, claim)
  local line = { hold_id, how, claim.created, until_ms, claim.quantity, claim.places, claim.owner }
  redis.call('XADD', ev.keys.trail, 'NOMKSTREAM', 'MAXLEN', '~', TRAIL_MAX, '*', ev.keys.state, table.concat(line, '|'))
end
