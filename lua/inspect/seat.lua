-- seat: who has a seat, by its dense index, on every leg.
--   redis-cli --eval lua/inspect/seat.lua 'hf:{7}:concert-42:state' 'hf:{7}:concert-42:held' 'hf:{7}:concert-42:sold' \
--     'hf:{7}:concert-42:holds' 'hf:{7}:concert-42:bookings' , 117
local seat = tonumber(ARGV[1])
local legs = tonumber(redis.call('HGET', KEYS[1], 'legs'))
if not legs then
  return { 'not loaded' }
end

-- Records end in `…|places|owner`; places read `0:1;0*2;1#100,101`.
local function owners(hash, kind, lines)
  local cursor = '0'
  repeat
    local page = redis.call('HSCAN', hash, cursor, 'COUNT', 1000)
    cursor = page[1]
    for i = 1, #page[2], 2 do
      local places = string.match(page[2][i + 1], '(%d+:%d+;[^|]*)|')
      for _, seats in string.gmatch(places or '', '(%d+)#([%d,]+)') do
        if string.find(',' .. seats .. ',', ',' .. seat .. ',', 1, true) then
          lines[#lines + 1] = kind .. ' ' .. page[2][i] .. ': ' .. page[2][i + 1]
        end
      end
    end
  until cursor == '0'
end

local lines = {}
for leg = 0, legs - 1 do
  local held = redis.call('GETBIT', KEYS[2], seat * legs + leg)
  local sold = redis.call('GETBIT', KEYS[3], seat * legs + leg)
  lines[#lines + 1] = 'leg ' .. leg .. ': ' .. (sold == 1 and 'sold' or held == 1 and 'held' or 'free')
end
owners(KEYS[4], 'hold', lines)
owners(KEYS[5], 'booking', lines)
return lines
