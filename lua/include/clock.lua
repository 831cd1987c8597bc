-- The one clock: Redis's own, in ms. Read it once per script: on Redis 7.0 it moves on while a script runs.
local function read_clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
