-- event: an event's status, counters and limits.   redis-cli --eval lua/inspect/event.lua 'hf:{7}:concert-42:state'
local lines = {}
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  lines[#lines + 1] = fields[i] .. ' = ' .. fields[i + 1]
end
table.sort(lines)
return lines
