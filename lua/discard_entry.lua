#!lua flags=allow-oom
-- discard_entry: forget a dead letter for good; its booking is in Postgres, or cannot be told.
--
-- KEYS[1] dead     hash    journal id -> what could not be written, and why
--
-- ARGV[1] journal_id
-- ARGV[2] letter      as the caller has read it: another one is left alone
--
-- Returns {'DISCARDED'}
--         {'NOT_FOUND'}   there is no such letter (any more)

--- @keys

local journal_id, letter = ARGV[1], ARGV[2]

if redis.call('HGET', keys.dead, journal_id) ~= letter then
  return { 'NOT_FOUND' }
end
redis.call('HDEL', keys.dead, journal_id)
return { 'DISCARDED' }
