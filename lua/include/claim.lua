-- Claiming places: checks first, with every refusal, then writes. Needs event, places, rows, best.

-- What an item of a claim lacks: seats that are taken, or a number that is not there.
local function check_seats(ev, item, places, missing)
  local held = read_cells(ev.keys.held, item.seats, ev.legs, places.first, places.last)
  local sold = read_cells(ev.keys.sold, item.seats, ev.legs, places.first, places.last)
  for i = 1, #item.seats do
    if sold[i] then
      missing.sold = missing.sold + 1
      missing[#missing + 1] = item.section .. '#' .. item.seats[i]
    elseif held[i] then
      missing.held = missing.held + 1
      missing[#missing + 1] = item.section .. '#' .. item.seats[i]
    end
  end
end

-- `free` of the wanted places are there: count how many of the others are held, and may come back, or sold.
local function add_shortage(item, missing, held, free)
  local back = math.min(held, item.quantity - free)
  missing.held = missing.held + back
  missing.sold = missing.sold + item.quantity - free - back
  missing[#missing + 1] = item.section .. '*' .. item.quantity .. ':' .. free
end

-- Whether enough places are free on every leg; `held` is the most that are held on any.
local function check_quantity(ev, item, places, missing)
  local suffixes, free, held = read_counters(ev, places, item, 'free', 'held'), NEVER, 0
  for i = 1, #suffixes do
    free = math.min(free, math.max(ev.counters['free' .. suffixes[i]], 0))
    held = math.max(held, ev.counters['held' .. suffixes[i]])
  end
  if free < item.quantity then
    add_shortage(item, missing, held, free)
  end
  return free >= item.quantity, held
end

-- Check every item; wishes become seats, none of those that are in `chosen`, which what this claims is added to.
-- Appends to `missing`; answers false when another call must go on.
local function check_places(ev, places, missing, chosen)
  chosen = chosen or {}
  for i = 1, #places do
    local item = places[i]
    if item.kind == '#' then
      check_seats(ev, item, places, missing)
      for j = 1, #item.seats do
        chosen[item.seats[j]] = true
      end
    end
  end
  for i = 1, #places do
    local item = places[i]
    if item.kind ~= '#' then
      local enough, held = check_quantity(ev, item, places, missing)
      if enough and item.kind == '?' then
        local answer, seats = choose_seats(ev, item, places, chosen)
        if answer == 'CONTINUE' then
          return false
        elseif answer == 'MISSING' then
          add_shortage(item, missing, held, #seats) -- enough on every leg, but not the same seats on all
        else
          item.kind, item.seats, places.chosen = '#', seats, true
        end
      end
    end
  end
  return true
end

-- Which limit of the event's policy a claim would break, or nil; `already` of its places are the owner's and counted.
local function check_limits(ev, places, owner, already)
  if places.quantity > ev.max_hold then
    return 'max_places_per_hold', ev.max_hold
  end
  local claimed = (tonumber(redis.call('HGET', ev.keys.users, owner)) or 0) - (already or 0)
  if claimed + places.quantity > ev.max_customer then
    return 'max_places_per_customer', ev.max_customer
  end
end

local function next_release(ev)
  return ev.due == NEVER and 0 or ev.due
end
