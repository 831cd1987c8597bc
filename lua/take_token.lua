#!lua
-- take_token: let a caller make one more request, or say how long to wait.
--
-- KEYS[1]  rates     hash    slot of a caller -> how much of their allowance is used
--
-- ARGV[1]  slot      where the caller stands in the table
-- ARGV[2]  caller    digest of who it is
-- ARGV[3]  interval  microseconds in which one request is earned
-- ARGV[4]  burst     requests that may come at once
--
-- Returns {'TAKEN', left}              requests that may follow at once
--         {'LIMITED', wait_ms}         until the next may come

--- @keys

local slot, caller, interval, burst = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
-- The allowance is used up to the moment `used`: a table of fixed size, as `ended` is, in which a later caller of the same
-- slot takes an earlier one's place. Nothing needs sweeping; who is displaced begins with a full allowance.
local used = now
local whose, moment = string.match(redis.call('HGET', keys.rates, slot) or '', '^([^|]*)|(%d+)$')
if whose == caller then
  used = math.max(now, math.min(tonumber(moment), now + burst * interval)) -- a clock that was set back costs no more
end
if used + interval > now + burst * interval then
  return { 'LIMITED', math.ceil((used + interval - now - burst * interval) / 1000) }
end

-- Nothing below refuses.
redis.call('HSET', keys.rates, slot, string.format('%s|%.0f', caller, used + interval))
return { 'TAKEN', math.floor((now + burst * interval - used - interval) / interval) }
