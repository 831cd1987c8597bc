#!lua
-- take_ticket: give a customer their turn at an event with an admission queue, or say again when it is.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  queue     zset    customer scored by when it is their turn, in microseconds
--
-- ARGV[1]  customer
-- ARGV[2]  interval  microseconds from one turn to the next
-- ARGV[3]  ttl_ms    how long a turn lasts
-- ARGV[4]  most      turns that may be given at a time
--
-- Returns {'QUEUED', turn_ms, now_ms, ahead}   ahead: customers whose turn is still to come, before this one's
--         {'FULL'}                             as many turns are given as may be
--         {'NOT_OPEN', status}
--         {'NOT_LOADED'}                       the event's state is not in Redis

--- @keys

local customer, interval, ttl, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]) * 1000, tonumber(ARGV[4])
local LAPSED_MAX = 8 -- forgotten at a call: more than one comes, so that what is kept follows who is in line

local state = redis.call('HMGET', keys.state, 'status', 'closes', 'clock', 'epoch')
if not state[1] or not state[4] then
  return { 'NOT_LOADED' }
end
local time = redis.call('TIME')
local now = math.max(time[1] * 1000000 + time[2], tonumber(state[3]) * 1000) -- never backwards, as in event.lua
if state[1] ~= 'open' or now >= tonumber(state[2]) * 1000 then
  return { 'NOT_OPEN', state[1] == 'open' and 'closed' or state[1] }
end

local function queued(turn)
  -- Tickets are checked by the millisecond, so both are told rounded down: a turn that is now has come.
  local turn_ms, now_ms, ahead = math.floor(turn / 1000), math.floor(now / 1000), 0
  if turn_ms > now_ms then
    ahead = redis.call('ZCOUNT', keys.queue, string.format('(%.0f', now), string.format('(%.0f', turn))
  end
  return { 'QUEUED', turn_ms, now_ms, ahead }
end

local given = tonumber(redis.call('ZSCORE', keys.queue, customer) or '')
if given and given + ttl > now then
  return queued(given)
end
local lapsed = redis.call('ZRANGEBYSCORE', keys.queue, '-inf', string.format('%.0f', now - ttl), 'LIMIT', 0, LAPSED_MAX)
if #lapsed == 0 and redis.call('ZCARD', keys.queue) >= most then
  return { 'FULL' }
end

-- Nothing below refuses. A queue that stood idle has saved nothing up: the next turn is now, and the one after that an
-- interval later.
local last = redis.call('ZRANGE', keys.queue, -1, -1, 'WITHSCORES')
local turn = last[2] and math.max(now, tonumber(last[2]) + interval) or now
if #lapsed > 0 then
  redis.call('ZREM', keys.queue, unpack(lapsed))
end
redis.call('ZADD', keys.queue, string.format('%.0f', turn), customer)
return queued(turn)
