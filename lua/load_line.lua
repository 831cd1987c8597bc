#!lua
-- load_line: put people back in line of an event that is being loaded, before anybody else can claim its places.
--
-- KEYS[1]  loading   hash    the state while it is being loaded
-- KEYS[2]  waitlist  zset    entry scored by priority and time
-- KEYS[3]  entries   hash    entry -> what it waits for, and who
-- KEYS[4]  wanted    hash    what the line waits for -> by how many entries
-- KEYS[5]  lines     set     events that somebody is in line for
--
-- ARGV[1]  event_id
-- ARGV[2]  epoch      of the load that this batch belongs to
-- ARGV[3]  entries    `entry|score|places|owner` each, from here on
--
-- Returns {'LOADED', count}
--         {'STALE'}   another load has begun since

--- @include places
--- @include queue
--- @keys

keys.state = keys.loading -- `waiting` stands where it will be
local event_id, epoch = ARGV[1], ARGV[2]
local FIRST_ENTRY = 3

if redis.call('HGET', keys.loading, 'epoch') ~= epoch then
  return { 'STALE' }
end
for i = FIRST_ENTRY, #ARGV do
  local entry, score, text, owner = string.match(ARGV[i], '^([^|]*)|(%d+)|([^|]*)|(.*)$')
  enter_line(keys, event_id, entry, score, text, owner)
end
return { 'LOADED', #ARGV - FIRST_ENTRY + 1 }
