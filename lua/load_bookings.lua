#!lua
-- load_bookings: put a batch of bookings of the ledger into an event that is being loaded.
--
-- KEYS[1]  loading   hash    the state while it is being loaded
-- KEYS[2]  sold      bitmap  cell = seat index x legs + leg
-- KEYS[3]  users     hash    customer -> places claimed
-- KEYS[4]  rows      string  index of neighbours
-- KEYS[5]  bookings  hash    booking id -> record
--
-- ARGV[1]  epoch      of the load that this batch belongs to
-- ARGV[2]  bookings   `booking_id|confirmed_ms|places|owner` each, from here on
--
-- Returns {'LOADED', count}
--         {'STALE'}   another load has begun since

--- @include event
--- @include places
--- @include rows
--- @include move
--- @keys

keys.state = keys.loading -- the counters stand where they will be: under `loading` until the load is finished
local epoch = ARGV[1]

local BOOKINGS_PER_COMMAND = 500 -- two values each: Lua's unpack gives up near 8000

-- A batch is added up first and then written with few commands: one with many fields costs a fraction of many. What
-- is taken of a section over the same legs (`0:1;0#` names them, and the kind) is moved as if it were one claim.
local function new_batch()
  return { groups = {}, fields = {}, owners = {}, totals = {} }
end

local function find_group(batch, name)
  local places = batch.groups[name]
  if not places then
    local first, last, section, kind = string.match(name, '^(%d+):(%d+);(%d+)([*#])$')
    places = { { section = section, kind = kind, quantity = 0, seats = kind == '#' and {} or nil } }
    places.first, places.last, places.first_text = tonumber(first), tonumber(last), first
    batch.groups[name] = places
  end
  return places[1]
end

local function add_record(batch, booking_id, confirmed, quantity, text, owner)
  local fields, totals = batch.fields, batch.totals
  fields[#fields + 1] = booking_id
  fields[#fields + 1] = confirmed .. '|' .. confirmed .. '|||' .. quantity .. '|' .. text .. '|' .. owner
  if not totals[owner] then
    totals[owner] = 0
    batch.owners[#batch.owners + 1] = owner
  end
  totals[owner] = totals[owner] + quantity
end

local function add_booking(batch, argument)
  -- Most bookings are one seat, or some counted places: one match, and no table, is a third of the cost of parsing.
  local booking_id, confirmed, text, name, claim, owner =
    string.match(argument, '^([^|]*)|(%d+)|((%d+:%d+;%d+[*#])(%d+))|(.*)$')
  if booking_id then
    local item = find_group(batch, name)
    local quantity = claim
    if item.seats then
      quantity = '1'
      item.seats[#item.seats + 1] = tonumber(claim)
    end
    item.quantity = item.quantity + quantity
    add_record(batch, booking_id, confirmed, quantity, text, owner)
    return
  end
  booking_id, confirmed, text, owner = string.match(argument, '^([^|]*)|(%d+)|([^|]*)|(.*)$')
  local places = parse_places(text)
  for i = 1, #places do
    local item = places[i]
    local whole = find_group(batch, places.first .. ':' .. places.last .. ';' .. item.section .. item.kind)
    whole.quantity = whole.quantity + item.quantity
    for j = 1, item.seats and #item.seats or 0 do
      whole.seats[#whole.seats + 1] = item.seats[j]
    end
  end
  add_record(batch, booking_id, confirmed, places.quantity, text, owner)
end

local function write_batch(ev, batch)
  for _, places in pairs(batch.groups) do
    move_places(ev, places, 'free', 'sold')
  end
  redis.call('HSET', keys.bookings, unpack(batch.fields))
  local before, users = redis.call('HMGET', keys.users, unpack(batch.owners)), {}
  for i, owner in ipairs(batch.owners) do
    users[2 * i - 1], users[2 * i] = owner, batch.totals[owner] + (tonumber(before[i]) or 0)
  end
  redis.call('HSET', keys.users, unpack(users))
end

local ev = read_event(keys, 0)
if not ev or ev.epoch ~= epoch then
  return { 'STALE' }
end
for start = 2, #ARGV, BOOKINGS_PER_COMMAND do
  local ids = {}
  for i = start, math.min(start + BOOKINGS_PER_COMMAND - 1, #ARGV) do
    ids[#ids + 1] = string.match(ARGV[i], '^[^|]*')
  end
  local known, batch = redis.call('HMGET', keys.bookings, unpack(ids)), new_batch()
  for i = 1, #ids do
    -- A batch whose reply was lost is sent again: what it has loaded already must not count twice.
    if not known[i] then
      add_booking(batch, ARGV[start + i - 1])
    end
  end
  if #batch.fields > 0 then
    write_batch(ev, batch)
  end
end
write_event(ev)
return { 'LOADED', #ARGV - 1 }
