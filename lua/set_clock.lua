#!lua flags=allow-oom
-- set_clock: set an event's clock back to Redis's own, after that was set back, and all deadlines and turns with it.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  expiries  zset    hold id scored by deadline_ms
-- KEYS[3]  queue     zset    customer scored by when it is their turn, in microseconds
-- KEYS[4]  wakeups   zset    event id scored by its earliest deadline
--
-- ARGV[1]  leeway    ms: a clock that is ahead by no more is left alone
--
-- Returns {'SET', ms}      by how much it went back; 0 when nothing had to be done
--         {'CONTINUE'}     a bounded amount was done: call again at once
--         {'NOT_LOADED'}   the event's state is not in Redis

-- Time in an event never runs backwards, so it stands still when Redis's clock was set back: until that has come there
-- again, no hold lapses and no turn comes. Here it goes on: everything that is still to come is as far away as it was. A
-- hold's record has no moment in it, only its lifetime.

--- @include clock
--- @include bounds
--- @include event
--- @keys

local leeway = tonumber(ARGV[1])
local TURNS_MAX = 1000 -- moved by one call, in about a millisecond: there may be a million
local HOLDS_AT_ONCE = 1000 -- of a command; all are moved by one call, for they and the clock must agree: 2 ms a thousand

local time = read_clock()
local ev = read_event(keys, time)
if not ev then
  return { 'NOT_LOADED' }
end
-- What an earlier call has begun, `ms|turn`: turns from that one on have yet to be moved. New ones come behind the last of
-- them, so they are among those.
local by, turn = string.match(redis.call('HGET', keys.state, 'back') or '', '^(%d+)|(%d+)$')
local is_begun = by ~= nil
if not is_begun and ev.now - time <= leeway then
  return { 'SET', 0 }
end

-- Nothing below refuses.
local function move_scores(key, scored, ms)
  local moved = {}
  for i = 1, #scored, 2 do
    moved[i], moved[i + 1] = string.format('%.0f', scored[i + 1] - ms), scored[i]
  end
  if #moved > 0 then
    redis.call('ZADD', key, unpack(moved))
  end
end

by, turn = tonumber(by) or ev.now - time, tonumber(turn) or 0
if not is_begun then
  for first = 0, redis.call('ZCARD', keys.expiries) - 1, HOLDS_AT_ONCE do -- the order stays what it was
    local last = first + HOLDS_AT_ONCE - 1
    move_scores(keys.expiries, redis.call('ZRANGE', keys.expiries, first, last, 'WITHSCORES'), by)
  end
  move_due(ev, tonumber(redis.call('ZRANGE', keys.expiries, 0, 0, 'WITHSCORES')[2]) or NEVER)
  ev.now, ev.seq = ev.now - by, ev.seq + 1
  write_event(ev)
end

turn = string.format('%.0f', math.max(turn, time * 1000)) -- those before are over, or have come
local turns = redis.call('ZRANGEBYSCORE', keys.queue, turn, '+inf', 'WITHSCORES', 'LIMIT', 0, TURNS_MAX)
move_scores(keys.queue, turns, by * 1000)
if #turns == 2 * TURNS_MAX then
  redis.call('HSET', keys.state, 'back', string.format('%.0f|%.0f', by, turns[#turns]))
  return { 'CONTINUE' }
end
redis.call('HDEL', keys.state, 'back')
return { 'SET', by }
