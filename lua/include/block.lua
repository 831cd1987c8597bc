-- Places that are taken off sale: bookings whose owner nobody can be. Needs nothing.

-- Ids of customers are printable, so that no token is of this one; as in engine/blocks.py.
local BLOCKED = '\tblocked'
local BLOCKS_MAX = 500 -- of an event at a time, since every snapshot carries their marks; as in engine/blocks.py

-- The state tells which of the sold places are off sale by a field for each block, so that whoever reads a snapshot has
-- them in the same moment: `blocked:<id>` -> its places. `off_sale` is how many such fields there are.
local function mark_block(keys, booking_id, owner, places)
  if owner == BLOCKED then
    local added = redis.call('HSET', keys.state, 'blocked:' .. booking_id, places)
    redis.call('HINCRBY', keys.state, 'off_sale', added)
  end
end

local function unmark_block(keys, booking_id, owner)
  if owner == BLOCKED then
    local removed = redis.call('HDEL', keys.state, 'blocked:' .. booking_id)
    redis.call('HINCRBY', keys.state, 'off_sale', -removed)
  end
end

-- The bound that one more block would pass, and how much it is.
local function check_blocks(keys)
  if tonumber(redis.call('HGET', keys.state, 'off_sale') or 0) >= BLOCKS_MAX then
    return 'blocks_per_event', BLOCKS_MAX
  end
end
