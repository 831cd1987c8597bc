-- Best available: seats side by side, the first rows of the definition first. Needs event, places, rows.
--
-- One run of neighbours if there is one; else the fewest runs, longest first. Where the event avoids orphans, a run
-- that leaves no single free seat beside it is preferred to any that does.

local LOOK_MAX = 512 -- blocks looked at in one call, about 1.5 ms; events with legs have few enough to see them all

-- Free runs of a block as a list of { seat, length }, without the seats already `chosen`; the longest length;
-- and whether `chosen` had a part in it.
local function read_runs(ev, search, block, places)
  local starts = read_block_starts(search.rows, block, block + 1)
  local seats = {}
  for seat = starts[1], starts[2] - 1 do
    seats[#seats + 1] = seat
  end
  local held = read_cells(ev.keys.held, seats, ev.legs, places.first, places.last)
  local sold = read_cells(ev.keys.sold, seats, ev.legs, places.first, places.last)
  local runs, start, longest, clouded = {}, nil, 0, false
  for i = 1, #seats + 1 do
    clouded = clouded or search.chosen[seats[i]]
    local free = seats[i] and not held[i] and not sold[i] and not search.chosen[seats[i]]
    if free and not start then
      start = i
    elseif not free and start then
      runs[#runs + 1] = { seats[start], i - start }
      longest = math.max(longest, i - start)
      start = nil
    end
  end
  return runs, longest, clouded
end

local function look_at_block(ev, search, block, places)
  local runs = search.seen[block]
  if not runs then
    local longest, clouded
    runs, longest, clouded = read_runs(ev, search, block, places)
    search.seen[block] = runs
    search.looked = search.looked + 1
    -- With legs, what is full on these legs may be free on others, so nothing can be learnt for later.
    if ev.legs == 1 and not clouded then
      tighten_rows(search.rows, block, longest)
    end
  end
  return runs
end

-- A run with `wanted` free neighbours, the first one, or nil; the next search for as many goes on behind it. Without
-- one, search.longest is the longest shorter run of those that only a look can tell apart, and search.exhausted says
-- that there were more blocks than may be looked at: the index has learnt, and another call gets further.
local function find_run(ev, search, wanted, places)
  if wanted ~= search.wanted then
    search.wanted, search.next, search.longest = wanted, search.from, nil
  end
  search.exhausted = false
  local leaves_orphan
  local block = next_block(search.rows, wanted, search.next, search.to)
  while block do
    if search.looked >= LOOK_MAX and ev.legs == 1 and not search.seen[block] then
      search.exhausted = true
      break
    end
    local runs = look_at_block(ev, search, block, places)
    for i = 1, #runs do
      local run = runs[i]
      if run[2] >= wanted then
        if run[2] ~= wanted + 1 or not search.avoids_orphans then
          search.next = block
          return run
        end
        leaves_orphan = leaves_orphan or run
      elseif run[2] >= RUNS and run[2] > (search.longest or 0) then
        search.longest = run[2]
      end
    end
    block = next_block(search.rows, wanted, block + 1, search.to)
  end
  return leaves_orphan
end

-- Turn the wish `item` into seats; `chosen` maps the seats that this request takes already, and is added to.
-- Answers 'FOUND' and the seats, 'MISSING' and the seats there are, or 'CONTINUE' when the call has looked at enough.
-- Calling again gets further because one request has fewer places than LOOK_MAX: some of the blocks looked at neither
-- gave a seat nor have one that the request names, and their bits are cleared.
local function choose_seats(ev, item, places, chosen)
  local shape = redis.call('HGET', ev.keys.state, 'section:' .. item.section)
  local first_block, block_count = string.match(shape, '^%d+:%d+:(%d+):(%d+)$')
  local search = {
    rows = read_rows(ev),
    from = tonumber(first_block),
    to = first_block + block_count - 1,
    chosen = chosen,
    avoids_orphans = redis.call('HGET', ev.keys.state, 'orphans') == 'avoid',
    seen = {},
    looked = 0,
  }
  local seats, wanted = {}, item.quantity
  while #seats < item.quantity do
    local run = find_run(ev, search, wanted, places)
    if run then
      for seat = run[1], run[1] + wanted - 1 do
        seats[#seats + 1] = seat
        chosen[seat] = true
      end
      run[1], run[2] = run[1] + wanted, run[2] - wanted
      wanted = math.min(wanted, item.quantity - #seats)
    elseif search.longest then
      wanted = search.longest
    elseif search.exhausted then
      return 'CONTINUE'
    elseif wanted == 1 then
      return 'MISSING', seats
    else
      wanted = math.min(wanted - 1, RUNS)
    end
  end
  table.sort(seats)
  return 'FOUND', seats
end
