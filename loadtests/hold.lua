-- What wrk sends: holds of one place, over and over. The same bytes go to the API and to the bare application.
--
-- wrk … -s hold.lua <url> -- <tokens file> <path> <seats per row, or 0 to take places of the floor>

local requests, heads = {}, {}
local seats_per_row, sent = 0, 0

function init(args)
  seats_per_row = tonumber(args[3])
  for token in io.lines(args[1]) do
    heads[#heads + 1] = 'POST ' .. args[2] .. ' HTTP/1.1\r\nHost: ' .. wrk.host .. ':' .. wrk.port
      .. '\r\nAuthorization: Bearer ' .. token .. '\r\nContent-Type: application/json\r\nContent-Length: '
  end
  local body = '{"items":[{"section":"floor","quantity":1}]}'
  for i = 1, #heads do
    requests[i] = heads[i] .. #body .. '\r\n\r\n' .. body
  end
end

function request()
  local number = sent
  sent = sent + 1
  if seats_per_row == 0 then
    return requests[number % #requests + 1]
  end
  local seat = 'R' .. math.floor(number / seats_per_row) .. '-' .. number % seats_per_row + 1
  local body = '{"items":[{"section":"stalls","seats":["' .. seat .. '"]}]}'
  return heads[number % #heads + 1] .. #body .. '\r\n\r\n' .. body
end

function done(summary)
  local errors = summary.errors
  io.write(string.format('RESULT %d %d %d %d\n', summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
