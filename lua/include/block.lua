-- Places that are taken off sale: bookings whose owner nobody can be. Needs nothing.

-- Ids of customers are printable, so that no token is of this one; as in engine/blocks.py.
local BLOCKED = '\tblocked'

-- The state tells which of the sold places are off sale by a field for each block, so that whoever reads a snapshot has
-- them in the same moment: `blocked:<id>` -> its places.
local function mark_block(keys, booking_id, owner, places)
  if owner == BLOCKED then
    redis.call('HSET', keys.state, 'blocked:' .. booking_id, places)
  end
end

local function unmark_block(keys, booking_id, owner)
  if owner == BLOCKED then
    redis.call('HDEL', keys.state, 'blocked:' .. booking_id)
  end
end
