-- What wrk sends: holds of one place, over and over. The same bytes go to the API and to the bare application.
--
-- wrk … -s hold.lua <url> -- <tokens file> <path> <seats per row, or 0 to take places of the floor> [<header> <run>]
--
-- With a header, every request has one of that name whose value begins with <run> and is no other's.

local requests, heads = {}, {}
local seats_per_row, sent = 0, 0
local header, run = '', ''
local body = '{"items":[{"section":"floor","quantity":1}]}'

function init(args)
  seats_per_row, header, run = tonumber(args[3]), args[4] or '', args[5]
  for token in io.lines(args[1]) do
    heads[#heads + 1] = 'POST ' .. args[2] .. ' HTTP/1.1\r\nHost: ' .. wrk.host .. ':' .. wrk.port
      .. '\r\nAuthorization: Bearer ' .. token .. '\r\nContent-Type: application/json\r\nContent-Length: '
  end
  for i = 1, #heads do
    requests[i] = heads[i] .. #body .. '\r\n\r\n' .. body
  end
end

function request()
  local number = sent
  sent = sent + 1
  if header ~= '' then
    return heads[number % #heads + 1] .. #body .. '\r\n' .. header .. ': ' .. run .. '-' .. number .. '\r\n\r\n' .. body
  elseif seats_per_row == 0 then
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
