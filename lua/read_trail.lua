#!lua flags=no-writes
-- read_trail: the oldest lines of a partition's trail, and whether any were trimmed before they were stored.
--
-- KEYS[1]  trail     stream  what became of holds, for the history in Postgres
-- KEYS[2]  stored    string  how far the trail has been stored
--
-- ARGV[1]  limit     entries at most; fewer are read when they have more lines than this
--
-- Returns {'READ', number, lost, lost_since_ms, {id, {state_key, line…}}…}   number of the first entry
--         {'NO_TRAIL'}   no history is kept, or it has not begun

--- @keys

local limit = tonumber(ARGV[1])
local AT_ONCE = 100 -- entries: a thousand lines at most, for hold_many puts ten into one

if redis.call('EXISTS', keys.trail) == 0 then
  return { 'NO_TRAIL' }
end
-- Entries are numbered by the order in which they were added; only the oldest are ever removed.
local info, about = redis.call('XINFO', 'STREAM', keys.trail), {}
for i = 1, #info, 2 do
  about[info[i]] = info[i + 1]
end
local removed = about['entries-added'] - about.length
local stored, since = string.match(redis.call('GET', keys.stored) or '0|0', '^(%d+)|(%d+)$')
local reply = { 'READ', removed + 1, math.max(0, removed - stored), tonumber(since) }
local start, left = '-', limit
while left > 0 do
  local entries = redis.call('XRANGE', keys.trail, start, '+', 'COUNT', math.min(AT_ONCE, left))
  for _, entry in ipairs(entries) do
    reply[#reply + 1] = entry
    left = left - #entry[2] / 2
  end
  if #entries < AT_ONCE then
    break
  end
  start = '(' .. entries[#entries][1]
end
return reply
