#!lua
-- take_tokens: count requests of callers and addresses, or say how long each of them must wait.
--
-- KEYS[1]  rates     hash    slot of a caller or an address -> how much of their allowance is used
--
-- ARGV[1]  caller_interval   microseconds in which a caller earns one request
-- ARGV[2]  caller_burst      requests of a caller that may come at once
-- ARGV[3]  address_interval  the same of an address
-- ARGV[4]  address_burst
-- ARGV[5]  ahead             a byte for each caller and address below: requests to take in advance besides, for later ones;
--                            '' for none
-- ARGV[6]  slot              from here on, two for each request: where its caller and its address stand in the table, ''
--                            for what is not counted; then as many digests of who they are, in the same order. At most
--                            REQUESTS_MAX requests
--
-- Returns {'COUNTED', caller, address for each request}   how many may follow at once; below 0: refused, and how many
--                                                         ms until the next may come. 0 for what is not counted.
--                                                         LEASED more: what was wanted in advance was taken, too

-- A request that either refuses is counted by neither: whoever shares an address with a customer, or has used it up,
-- takes nothing from that customer's own allowance. An allowance is used up to a moment. The table is of fixed size, as
-- `ended` is: a later caller of the same slot takes an earlier one's place, and nothing needs sweeping; who is displaced
-- begins with a full allowance. In advance is taken only what leaves half of the burst to everybody else. Requests come by the dozen: all is read in one command and written in one, and there are
-- no tables of their own for them.

--- @keys

local REQUESTS_MAX, FIRST, MOMENT_DIGITS, LEASED = 100, 6, 16, 1000000000
local caller_interval, caller_burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local address_interval, address_burst, ahead = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local count = (#ARGV - FIRST + 1) / 2
if count < 2 or count > 2 * REQUESTS_MAX or count % 2 > 0 then
  return redis.error_reply('HF_BADARG requests: ' .. #ARGV)
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local caller_full, address_full = now + caller_interval * caller_burst, now + address_interval * address_burst

local records = redis.call('HMGET', keys.rates, unpack(ARGV, FIRST, FIRST + count - 1))
local args, sub, byte, format, floor = ARGV, string.sub, string.byte, string.format, math.floor
local latest = {} -- by slot: what requests before have made of it

-- Up to when an allowance would be used by one more request. A clock that was set back costs no more than the burst.
local function used_with(slot, n, interval, full)
  local record, used = latest[slot] or records[n], now
  if record and sub(record, MOMENT_DIGITS + 1) == args[FIRST - 1 + count + n] then
    used = tonumber(sub(record, 1, MOMENT_DIGITS))
    used = used < now and now or used > full and full or used
  end
  return used + interval
end

-- As the reply has it. What was not taken, because the other one refuses, is still there.
local function figure(left, interval, is_taken)
  return floor(left / (left < 0 and 1000 or interval)) + ((is_taken or left < 0) and 0 or 1)
end

local reply, written, size = { 'COUNTED' }, {}, 0
local function take(slot, n, used, interval, full)
  local more = used + (byte(ahead, n) or 0) * interval
  if more > used and more <= now + (full - now) / 2 then
    used = more
    reply[n + 1] = floor((full - used) / interval) + LEASED
  end
  local record = format('%016.0f%s', used, args[FIRST - 1 + count + n])
  latest[slot], written[size + 1], written[size + 2] = record, slot, record
  size = size + 2
end

for n = 1, count, 2 do
  local caller, address = args[FIRST - 1 + n], args[FIRST + n]
  local caller_used = caller ~= '' and used_with(caller, n, caller_interval, caller_full) or now
  local address_used = address ~= '' and used_with(address, n + 1, address_interval, address_full) or now
  local is_taken = caller_used <= caller_full and address_used <= address_full
  reply[n + 1] = caller == '' and 0 or figure(caller_full - caller_used, caller_interval, is_taken)
  reply[n + 2] = address == '' and 0 or figure(address_full - address_used, address_interval, is_taken)
  if is_taken and caller ~= '' then
    take(caller, n, caller_used, caller_interval, caller_full)
  end
  if is_taken and address ~= '' then
    take(address, n + 1, address_used, address_interval, address_full)
  end
end

-- Nothing below refuses.
if size > 0 then
  redis.call('HSET', keys.rates, unpack(written))
end
return reply
