#!lua flags=allow-oom
-- forget_notices: drop what Postgres has heard of people in line.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  waitlist  zset    entry scored by priority and time
-- KEYS[3]  notices   hash    entry -> what Postgres has yet to hear of it
-- KEYS[4]  lines     set     events that somebody is in line for
--
-- ARGV[1]  event_id
-- ARGV[2]  notices    entry and notice by turns, from here on; one that is another by now is kept
--
-- Returns {'FORGOTTEN', count}

--- @include places
--- @include queue
--- @keys

local event_id = ARGV[1]
local count = 0
for i = 2, #ARGV, 2 do
  if redis.call('HGET', keys.notices, ARGV[i]) == ARGV[i + 1] then
    count = count + redis.call('HDEL', keys.notices, ARGV[i])
  end
end
tidy_line(keys, event_id)
return { 'FORGOTTEN', count }
