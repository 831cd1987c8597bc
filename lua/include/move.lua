-- Moving places between free, held and sold: the only place where cells and counters change. Needs event, places, rows.

local function move_places(ev, places, from, to)
  local freed = {}
  if to == 'free' and ev.waiting and ev.waiting ~= '0' then
    ev.waiting = '0' -- whoever is in line is asked before anybody else; see line.lua
    redis.call('HSET', ev.keys.state, 'waiting', ev.waiting)
  end
  for i = 1, #places do
    local item = places[i]
    move_counters(ev, places, item, from, to)
    if item.seats then
      if from ~= 'free' then
        write_cells(ev.keys[from], item.seats, ev.legs, places.first, places.last, false)
      end
      if to ~= 'free' then
        write_cells(ev.keys[to], item.seats, ev.legs, places.first, places.last, true)
      else
        for j = 1, #item.seats do
          freed[#freed + 1] = item.seats[j]
        end
      end
    end
  end
  if #freed > 0 then
    loosen_rows(ev, freed)
  end
end
