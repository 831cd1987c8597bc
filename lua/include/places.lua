-- Places as text (docs/keys.md): `0:1;0*2;1#100,101;2?3` is legs [0, 1), two places of section 0, seats 100 and 101 of
-- section 1, and the wish for the best three together in section 2.
--
-- Parsed: { first, last, quantity, { section, kind, quantity, seats }, … }; sections stay text, they only name fields.

local OPERATIONS_PER_COMMAND = 1500 -- of BITFIELD, at most four values each: Lua's unpack gives up near 8000
local BITS_PER_OPERATION = 63 -- BITFIELD's widest unsigned integer

local function parse_places(text)
  -- Most claims are one item without a list; one match is half the cost of an iteration.
  local one_first, one_last, one_section, one_kind, one_claim = string.match(text, '^(%d+):(%d+);(%d+)([*#?])(%d+)$')
  if one_first then
    local item = { section = one_section, kind = one_kind, quantity = 1 }
    if one_kind == '#' then
      item.seats = { tonumber(one_claim) }
    else
      item.quantity = tonumber(one_claim)
    end
    return { item, first = tonumber(one_first), last = tonumber(one_last), first_text = one_first, quantity = item.quantity }
  end
  local first, last, list = string.match(text, '^(%d+):(%d+);(.+)$')
  if not first then
    return nil
  end
  local places = { first = tonumber(first), last = tonumber(last), first_text = first, quantity = 0 }
  for section, kind, claim in string.gmatch(list, '(%d+)([*#?])([%d,]+)') do
    local item = { section = section, kind = kind }
    if kind == '#' then
      local seats = {}
      for seat in string.gmatch(claim, '%d+') do
        seats[#seats + 1] = tonumber(seat)
      end
      item.seats = seats
      item.quantity = #seats
    else
      item.quantity = tonumber(claim)
    end
    places[#places + 1] = item
    places.quantity = places.quantity + item.quantity
  end
  return places
end

local function format_places(places)
  local parts = { places.first .. ':' .. places.last }
  for i = 1, #places do
    local item = places[i]
    if item.seats then
      parts[#parts + 1] = item.section .. '#' .. table.concat(item.seats, ',')
    else
      parts[#parts + 1] = item.section .. item.kind .. item.quantity
    end
  end
  return table.concat(parts, ';')
end

-- For each seat: whether any of its cells of legs [first, last) is set in the bitmap.
local function read_cells(bitmap, seats, legs, first, last)
  if #seats == 1 and last - first == 1 then
    return { redis.call('GETBIT', bitmap, seats[1] * legs + first) == 1 }
  end
  local taken, owners, operations = {}, {}, {}
  local function flush()
    local values = redis.call('BITFIELD_RO', bitmap, unpack(operations))
    for i = 1, #values do
      if values[i] ~= 0 then
        taken[owners[i]] = true
      end
    end
    owners, operations = {}, {}
  end
  for i = 1, #seats do
    for from = first, last - 1, BITS_PER_OPERATION do
      operations[#operations + 1] = 'GET'
      operations[#operations + 1] = 'u' .. math.min(BITS_PER_OPERATION, last - from)
      operations[#operations + 1] = seats[i] * legs + from
      owners[#owners + 1] = i
      if #owners == OPERATIONS_PER_COMMAND then
        flush()
      end
    end
  end
  if #owners > 0 then
    flush()
  end
  return taken
end

-- Set or clear the cells of legs [first, last) of every seat.
local function write_cells(bitmap, seats, legs, first, last, set)
  if #seats == 1 and last - first == 1 then
    redis.call('SETBIT', bitmap, seats[1] * legs + first, set and 1 or 0)
    return
  end
  local value = set and '-1' or '0' -- a signed field of ones, whatever its width
  local operations = {}
  for from = first, last - 1, BITS_PER_OPERATION do
    local width = 'i' .. math.min(BITS_PER_OPERATION, last - from)
    for i = 1, #seats do
      local count = #operations
      operations[count + 1], operations[count + 2] = 'SET', width
      operations[count + 3], operations[count + 4] = seats[i] * legs + from, value
      if count + 4 >= 4 * OPERATIONS_PER_COMMAND then
        redis.call('BITFIELD', bitmap, unpack(operations))
        operations = {}
      end
    end
  end
  if #operations > 0 then
    redis.call('BITFIELD', bitmap, unpack(operations))
  end
end
