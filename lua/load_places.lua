#!lua
-- load_places: write which places the bookings own that an event is being loaded with, added up by the loader.
--
-- KEYS[1]  loading   hash    the state while it is being loaded
-- KEYS[2]  sold      bitmap  cell = seat index x legs + leg
--
-- ARGV[1]  epoch      of the load that this belongs to
-- ARGV[2]  offset     byte of the bitmap that the cells begin at
-- ARGV[3]  cells      a piece of the bitmap, or ''
-- ARGV[4]  fields     counters and their values, from here on
--
-- Returns {'LOADED'}
--         {'STALE'}   another load has begun since

--- @keys

local epoch, offset, cells = ARGV[1], ARGV[2], ARGV[3]
local FIRST_FIELD, FIELDS_PER_COMMAND = 4, 2000

if redis.call('HGET', keys.loading, 'epoch') ~= epoch then
  return { 'STALE' }
end

-- Nothing below refuses.
-- Written as they are, not added to what is there: a piece that comes twice changes nothing.
if cells ~= '' then
  redis.call('SETRANGE', keys.sold, offset, cells)
end
for start = FIRST_FIELD, #ARGV, FIELDS_PER_COMMAND do
  redis.call('HSET', keys.loading, unpack(ARGV, start, math.min(start + FIELDS_PER_COMMAND - 1, #ARGV)))
end
return { 'LOADED' }
