#!lua flags=no-writes
-- read_trail: the oldest lines of a partition's trail, and whether any were trimmed before they were stored.
--
-- KEYS[1]  trail     stream  what became of holds, for the history in Postgres
-- KEYS[2]  stored    string  how far the trail has been stored
--
-- ARGV[1]  limit     lines at most
--
-- Returns {'READ', number, lost, lost_since_ms, {id, {state_key, line}}…}   number of the first line
--         {'NO_TRAIL'}   no history is kept, or it has not begun

--- @keys

local limit = ARGV[1]

if redis.call('EXISTS', keys.trail) == 0 then
  return { 'NO_TRAIL' }
end
-- Lines are numbered by the order in which they were added; only the oldest are ever removed.
local info, about = redis.call('XINFO', 'STREAM', keys.trail), {}
for i = 1, #info, 2 do
  about[info[i]] = info[i + 1]
end
local removed = about['entries-added'] - about.length
local stored, since = string.match(redis.call('GET', keys.stored) or '0|0', '^(%d+)|(%d+)$')
return { 'READ', removed + 1, math.max(0, removed - stored), tonumber(since),
  unpack(redis.call('XRANGE', keys.trail, '-', '+', 'COUNT', limit)) }
