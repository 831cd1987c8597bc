#!lua
-- load_bookings: put a batch of bookings of the ledger into an event that is being loaded.
--
-- KEYS[1]  loading   hash    the state while it is being loaded
-- KEYS[2]  users     hash    customer -> places claimed
-- KEYS[3]  bookings  hash    booking id -> record
--
-- ARGV[1]  epoch      of the load that this batch belongs to
-- ARGV[2]  count      of bookings, one at least; a batch that is sent again is the same one
-- ARGV[3]  bookings   booking id (26 characters), its record and a NUL, which is in no text of Postgres; for each
-- ARGV[4]  customers  how many places these bookings claim, '|', customer and a NUL; for each customer
--
-- Returns {'LOADED', count}
--         {'STALE'}   another load has begun since

--- @keys

local epoch, count, bookings, customers = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local ID_LENGTH = 26
local FIELDS_PER_COMMAND = 2000 -- Lua's unpack gives up near 8000
local find, sub = string.find, string.sub

-- One long argument that is cut here costs the server less than thousands of short ones: two thirds, measured.
local function write_bookings()
  local fields, size, from = {}, 0, 1
  while from <= #bookings do
    local stop = find(bookings, '\0', from, true)
    fields[size + 1] = sub(bookings, from, from + ID_LENGTH - 1)
    fields[size + 2] = sub(bookings, from + ID_LENGTH, stop - 1)
    size, from = size + 2, stop + 1
    if size == FIELDS_PER_COMMAND or from > #bookings then
      redis.call('HSET', keys.bookings, unpack(fields, 1, size))
      size = 0
    end
  end
end

local function add_users(names, claimed, size)
  local before, fields = redis.call('HMGET', keys.users, unpack(names, 1, size)), {}
  for i = 1, size do
    fields[2 * i - 1], fields[2 * i] = names[i], before[i] and claimed[i] + before[i] or claimed[i]
  end
  redis.call('HSET', keys.users, unpack(fields, 1, 2 * size))
end

local function write_users()
  local names, claimed, size, from = {}, {}, 0, 1
  while from <= #customers do
    local bar = find(customers, '|', from, true)
    local stop = find(customers, '\0', bar, true)
    size = size + 1
    claimed[size], names[size] = sub(customers, from, bar - 1), sub(customers, bar + 1, stop - 1)
    from = stop + 1
    if 2 * size == FIELDS_PER_COMMAND or from > #customers then
      add_users(names, claimed, size)
      size = 0
    end
  end
end

if redis.call('HGET', keys.loading, 'epoch') ~= epoch then
  return { 'STALE' }
elseif redis.call('HGET', keys.bookings, sub(bookings, 1, ID_LENGTH)) then
  return { 'LOADED', count } -- its reply was lost: all of it is here, and must not count twice
end

-- Nothing below refuses.
-- What is of all bookings together, cells and counters, comes with load_places once it is added up.
write_bookings()
write_users()
return { 'LOADED', count }
