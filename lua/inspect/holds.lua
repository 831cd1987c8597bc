-- holds: live holds, the next to lapse first, at most 1000.
--   redis-cli --eval lua/inspect/holds.lua 'hf:{7}:concert-42:holds' 'hf:{7}:concert-42:expiries'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lines = {}
for _, hold_id in ipairs(redis.call('ZRANGE', KEYS[2], 0, 999)) do
  local record = redis.call('HGET', KEYS[1], hold_id) or '(no record: drift)'
  local left = tonumber(redis.call('ZSCORE', KEYS[2], hold_id)) - now
  lines[#lines + 1] = hold_id .. ' lapses in ' .. math.floor(left / 1000) .. ' s: ' .. record
end
return lines
