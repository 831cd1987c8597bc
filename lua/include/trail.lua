-- The trail: what became of every hold, line by line, on its way to the history in Postgres (docs/keys.md, `trail`).
--
-- A line says all that is known of its hold, so that it stands for itself when others are lost: the claim key, and then
-- the hold's record with, for its first word, what became of it. The event is in the name of the line's only field, the
-- key of its state, because that is at hand. There is a stream where history is kept, and nothing is added without one:
-- so no script needs to be told.

local TRAIL_MAX = 250000 -- lines kept while nobody stores them, some 25 MB; a minute or two of a rush

-- `record`: `how|created_ms|until_ms|quantity|places|owner`.
local function note_hold(ev, hold_id, record)
  redis.call('XADD', ev.keys.trail, 'NOMKSTREAM', 'MAXLEN', '~', TRAIL_MAX, '*', ev.keys.state,
    hold_id .. '|' .. record)
end

-- A hold, or the booking it became, has ended: `how` is 'expired', 'released', 'confirmed' or 'refused'.
local function note_end(ev, hold_id, how, until_ms, claim)
  note_hold(ev, hold_id,
    table.concat({ how, claim.created, until_ms, claim.quantity, claim.places, claim.owner }, '|'))
end
