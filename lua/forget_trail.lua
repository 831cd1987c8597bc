#!lua flags=allow-oom
-- forget_trail: drop the lines of a partition's trail that are in Postgres.
--
-- KEYS[1]  trail     stream  what became of holds, for the history in Postgres
-- KEYS[2]  stored    string  how far the trail has been stored
--
-- ARGV[1]  number    of the last entry that was stored, counted from 1 when the trail began
-- ARGV[2]  last_ms   when it was added
-- ARGV[3]  next_id   the least id that a line behind it can have
--
-- Returns {'FORGOTTEN', count}
--         {'NO_TRAIL'}   it is gone, and so are the lines

--- @keys

local number, last_ms, next_id = ARGV[1], ARGV[2], ARGV[3]

if redis.call('EXISTS', keys.trail) == 0 then
  return { 'NO_TRAIL' }
end
-- Somebody else may have stored the same lines, and more, and have said so already.
local stored = string.match(redis.call('GET', keys.stored) or '0|0', '^(%d+)|')
if tonumber(number) > tonumber(stored) then
  redis.call('SET', keys.stored, number .. '|' .. last_ms)
end
return { 'FORGOTTEN', redis.call('XTRIM', keys.trail, 'MINID', next_id) }
