#!lua flags=allow-oom
-- archive_event: let an event leave Redis, if nothing has touched it since a clean audit.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  loading   hash    the state while it is being loaded
-- KEYS[3]  held      bitmap  cell = seat index x legs + leg
-- KEYS[4]  sold      bitmap  the same
-- KEYS[5]  holds     hash    hold id -> record
-- KEYS[6]  expiries  zset    hold id scored by deadline_ms
-- KEYS[7]  users     hash    customer -> places claimed
-- KEYS[8]  rows      string  index of neighbours
-- KEYS[9]  ended     hash    how the last holds ended
-- KEYS[10] bookings  hash    booking id -> record
-- KEYS[11] journal   stream  bookings not yet known to be in Postgres
-- KEYS[12] dead      hash    journal id -> what could not be written, and why
-- KEYS[13] wakeups   zset    event id scored by its earliest deadline
-- KEYS[14] live      set     events whose state is in Redis
-- KEYS[15] waitlist  zset    entry scored by priority and time
-- KEYS[16] entries   hash    entry -> what it waits for, and who
-- KEYS[17] wanted    hash    what the line waits for -> by how many entries
-- KEYS[18] notices   hash    entry -> what Postgres has yet to hear of it
-- KEYS[19] lines     set     events that somebody is in line for
-- KEYS[20] queue     zset    customer scored by when it is their turn, in microseconds
-- KEYS[21] removed   stream  bookings that have gone, for audits under way
--
-- ARGV[1]  event_id
-- ARGV[2]  epoch      as the audit saw it
-- ARGV[3]  seq        the same
--
-- Returns {'ARCHIVED'}     no key of the event is left
--         {'CHANGED'}      it is not as the audit saw it: audit it again first
--         {'HAS_HOLDS'}    somebody holds places
--         {'JOURNALED'}    a booking of it waits to be written to the ledger, perhaps as a dead letter; or there are
--                          too many entries or letters to tell
--         {'NOT_LOADED'}   its state is not in Redis; the partition's indexes do not name it any more either

--- @keys

local event_id, epoch, seq = ARGV[1], ARGV[2], ARGV[3]
local ENTRIES_MAX = 256 -- of the journal; about half a millisecond to look through, and a drained one has fewer
local LETTERS_MAX = 256 -- of the dead letters; as many, and of the same size

-- Whether the partition's journal has no entry of the event.
local function journal_is_clear()
  if redis.call('XLEN', keys.journal) > ENTRIES_MAX then
    return false
  end
  local entries = redis.call('XRANGE', keys.journal, '-', '+', 'COUNT', ENTRIES_MAX)
  for i = 1, #entries do
    local fields = entries[i][2]
    for j = 1, #fields, 2 do
      if fields[j] == 'event' and fields[j + 1] == event_id then
        return false
      end
    end
  end
  return true
end

-- Whether the partition has no dead letter of the event: it could not be written any more under another epoch. As
-- engine/dead_letters.py writes them; inside of other texts the quotes would be escaped.
local function letters_are_clear()
  if redis.call('HLEN', keys.dead) > LETTERS_MAX then
    return false
  end
  local letters = redis.call('HVALS', keys.dead)
  for i = 1, #letters do
    if string.find(letters[i], '{"name":"event","text":"' .. event_id .. '"}', 1, true) then
      return false
    end
  end
  return true
end

local known = redis.call('HMGET', keys.state, 'epoch', 'seq')
if not known[1] then
  -- Whoever is loading it puts it back at the end.
  redis.call('ZREM', keys.wakeups, event_id)
  redis.call('SREM', keys.live, event_id)
  return { 'NOT_LOADED' }
elseif known[1] ~= epoch or known[2] ~= seq then
  return { 'CHANGED' }
elseif redis.call('EXISTS', keys.holds) == 1 then
  return { 'HAS_HOLDS' }
elseif not journal_is_clear() or not letters_are_clear() then
  return { 'JOURNALED' }
end

-- Nothing below refuses.
redis.call('UNLINK', keys.state, keys.loading, keys.held, keys.sold, keys.holds, keys.expiries, keys.users, keys.rows,
  keys.ended, keys.bookings, keys.waitlist, keys.entries, keys.wanted, keys.notices, keys.queue,
  keys.removed)
redis.call('ZREM', keys.wakeups, event_id)
redis.call('SREM', keys.live, event_id)
redis.call('SREM', keys.lines, event_id)
return { 'ARCHIVED' }
