#!lua
-- repair_event: bring an event to what an audit has found it should be, if it is still as it was seen.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  held      bitmap  cell = seat index x legs + leg
-- KEYS[3]  sold      bitmap  the same
-- KEYS[4]  holds     hash    hold id -> record
-- KEYS[5]  expiries  zset    hold id scored by deadline_ms
-- KEYS[6]  users     hash    customer -> places claimed
-- KEYS[7]  rows      string  index of neighbours
-- KEYS[8]  ended     hash    how the last holds ended
-- KEYS[9]  bookings  hash    booking id -> record
-- KEYS[10] wakeups   zset    event id scored by its earliest deadline
-- KEYS[11] trail     stream  what became of holds, for the history in Postgres
--
-- ARGV[1]  epoch       of the state that was read
-- ARGV[2]  repairs     how often that state had been repaired by then
-- ARGV[3]  operations  `verb|…` each, from here on; below, each verb says what it has seen and what it does
--
-- Returns {'REPAIRED', repairs, seq}
--         {'CHANGED', n}   what the nth operation saw is no longer so: nothing was written
--         {'STALE'}        the event was loaded anew, or repaired by somebody else, since it was read
--         {'NOT_LOADED'}   the event's state is not in Redis
--
-- An event that is selling changes all the while, so `seq` says nothing here. Two things make it right all the same.
-- `repairs`, which every call raises, lets each reading be acted upon once: no difference is added twice because a
-- reply was lost or because two reconcilers have read the same. And whatever a sale may have changed since the reading
-- is compared with what was seen: records by their text. Counters are not; a sale adds to them and takes away from
-- them, and so does a repair, in whatever order.

--- @include clock
--- @include bounds
--- @include event
--- @include places
--- @include rows
--- @include move
--- @include hold
--- @include trail
--- @include release
--- @include server
--- @include book
--- @include block
--- @keys

local epoch, repairs = ARGV[1], ARGV[2]
local FIRST_OPERATION = 3

local ev = read_event(keys, read_clock())
local event_id, seats, repaired = unpack(redis.call('HMGET', keys.state, 'event', 'seats', 'repairs'))
if not ev or not event_id then
  return { 'NOT_LOADED' }
elseif ev.epoch ~= epoch or (repaired or '0') ~= repairs then
  return { 'STALE' }
end

local cells = seats * ev.legs
local freed, counts = {}, {}

local function is_in(hash)
  return function(key, text)
    return redis.call('HGET', hash, key) == text
  end
end

local function set_of(hash, bitmap)
  return {
    pattern = '^(%d+)|([^|]*)|(.*)$', -- cell | key | record of its owner
    holds_true = function(_, key, text)
      return redis.call('HGET', hash, key) == text
    end,
    write = function(cell)
      redis.call('SETBIT', bitmap, cell, 1)
    end,
  }
end

-- A cell that nobody has. A claim needs it clear in both bitmaps, so that nobody can have taken it since it was read;
-- and nobody but a repair, of which there was none, or the owner that it does not have would have cleared it.
local function clear_of(bitmap)
  return {
    pattern = '^(%d+)$',
    write = function(cell)
      redis.call('SETBIT', bitmap, cell, 0)
      if tonumber(cell) < cells then -- behind them there should be no bits, nor is there a row to put right
        freed[#freed + 1] = math.floor(cell / ev.legs)
      end
    end,
  }
end

-- A record that no script can read.
local function drop_from(hash)
  return {
    pattern = '^([^|]*)|(.*)$',
    holds_true = is_in(hash),
    write = function(key)
      redis.call('HDEL', hash, key)
      if hash == keys.holds then
        redis.call('ZREM', keys.expiries, key)
      else
        unmark_block(keys, key, BLOCKED) -- whose it was cannot be read
      end
    end,
  }
end

local function write_record(key, is_counted, text)
  local booking = parse_booking(text)
  local places = parse_places(booking.places)
  redis.call('HSET', keys.bookings, key, text)
  mark_block(keys, key, booking.owner, booking.places)
  if is_counted == '1' then
    redis.call('HINCRBY', keys.users, booking.owner, booking.quantity)
  end
  for i = 1, #places do
    if places[i].seats then
      write_cells(keys.sold, places[i].seats, ev.legs, places.first, places.last, true)
    end
  end
end

local verbs = {
  set_held = set_of(keys.holds, keys.held),
  set_sold = set_of(keys.bookings, keys.sold),
  clear_held = clear_of(keys.held),
  clear_sold = clear_of(keys.sold),
  drop_hold = drop_from(keys.holds),
  drop_booking = drop_from(keys.bookings),
  -- A booking that the ledger does not have. Its cells and counters are other operations, here and in those below;
  -- '1' says that its customer's total is concerned as well.
  unbook = {
    pattern = '^([^|]*)|([01])|(.*)$',
    holds_true = function(key, _, text)
      return redis.call('HGET', keys.bookings, key) == text
    end,
    write = function(key, is_counted, text)
      local booking = parse_booking(text)
      redis.call('HDEL', keys.bookings, key)
      unmark_block(keys, key, booking.owner)
      if is_counted == '1' then
        forget_user_places(ev, booking.owner, booking.quantity)
      end
      remember_end(ev, key, 'refused', booking.owner)
      redis.call('HINCRBY', keys.state, 'undone', 1)
    end,
  },
  -- A booking that only the ledger, or only the journal, has.
  book = {
    pattern = '^([^|]*)|([01])|(.*)$',
    holds_true = function(key)
      return not redis.call('HGET', keys.bookings, key)
    end,
    write = write_record,
  },
  -- A booking of which the ledger says something else: the length of what was seen; that, and the new record behind it.
  rebook = {
    pattern = '^([^|]*)|(%d+)|(.*)$',
    holds_true = function(key, length, texts)
      return redis.call('HGET', keys.bookings, key) == string.sub(texts, 1, tonumber(length))
    end,
    write = function(key, length, texts)
      local old = parse_booking(string.sub(texts, 1, tonumber(length)))
      forget_user_places(ev, old.owner, old.quantity)
      unmark_block(keys, key, old.owner)
      write_record(key, '1', string.sub(texts, length + 1))
    end,
  },
  -- A hold whose places somebody else has the better right to, or whose booking is there.
  end_hold = {
    pattern = '^([^|]*)|(.*)$',
    holds_true = is_in(keys.holds),
    write = function(key, text)
      local hold = parse_hold(text, redis.call('ZSCORE', keys.expiries, key))
      redis.call('HDEL', keys.holds, key)
      redis.call('ZREM', keys.expiries, key)
      forget_user_places(ev, hold.owner, hold.quantity)
      if not redis.call('HGET', keys.bookings, key) then
        remember_end(ev, key, 'refused', hold.owner)
        note_hold(ev, key, 'refused', ev.now, hold)
      end
    end,
  },
  -- A hold whose deadline was lost: it lapses now. Records of old say when it was to be.
  index = {
    pattern = '^([^|]*)|(.*)$',
    holds_true = is_in(keys.holds),
    write = function(key, text)
      local deadline = parse_hold(text).deadline
      redis.call('ZADD', keys.expiries, deadline > 0 and deadline or ev.now, key)
    end,
  },
  -- A deadline without its hold.
  unindex = {
    pattern = '^([^|]*)$',
    holds_true = function(key)
      return not redis.call('HGET', keys.holds, key)
    end,
    write = function(key)
      redis.call('ZREM', keys.expiries, key)
    end,
  },
  -- Whether a booking's places are told to be off sale: what its record says, whatever that is by now.
  mark = {
    pattern = '^([^|]*)$',
    write = function(key)
      local record = redis.call('HGET', keys.bookings, key)
      local booking = record and parse_booking(record)
      if booking and booking.owner == BLOCKED then
        mark_block(keys, key, booking.owner, booking.places)
      else
        unmark_block(keys, key, BLOCKED)
      end
    end,
  },
  -- A customer's total: what it was, what it should have been then, whose.
  total = {
    pattern = '^(%-?%d+)|(%-?%d+)|(.*)$',
    holds_true = function(seen, _, customer)
      return (redis.call('HGET', keys.users, customer) or '0') == seen
    end,
    write = function(seen, wanted, customer)
      forget_user_places(ev, customer, seen - wanted)
    end,
  },
  -- A counter: the field, and by how much it is too low.
  count = {
    pattern = '^([a-z]+:%d+:%d+)|(%-?%d+)$',
    write = function(field, delta)
      counts[field] = (counts[field] or 0) + delta
    end,
  },
  -- How many marks there are: by how much that is too low.
  count_marks = {
    pattern = '^(%-?%d+)$',
    write = function(delta)
      counts.off_sale = delta
    end,
  },
}

local operations = {}
for i = FIRST_OPERATION, #ARGV do
  local name, rest = string.match(ARGV[i], '^([a-z_]+)|(.*)$')
  local verb = name and verbs[name]
  local fields = verb and { string.match(rest, verb.pattern) }
  if not fields or #fields == 0 then
    return redis.error_reply('HF_BADARG operation: ' .. ARGV[i])
  elseif verb.holds_true and not verb.holds_true(unpack(fields)) then
    return { 'CHANGED', i - FIRST_OPERATION + 1 }
  end
  operations[#operations + 1] = { verb.write, fields }
end

-- Nothing below refuses.
for i = 1, #operations do
  operations[i][1](unpack(operations[i][2]))
end
if cells > 0 then -- bitmaps keep their full size, also where one of them was lost
  redis.call('SETBIT', keys.held, cells - 1, redis.call('GETBIT', keys.held, cells - 1))
  redis.call('SETBIT', keys.sold, cells - 1, redis.call('GETBIT', keys.sold, cells - 1))
end
if #freed > 0 then
  loosen_rows(ev, freed)
end
for field, delta in pairs(counts) do
  redis.call('HINCRBY', keys.state, field, delta)
end
-- The earliest deadline, whichever of its copies was wrong.
local due = earliest_deadline(ev)
if due == NEVER then
  redis.call('ZREM', keys.wakeups, event_id)
else
  redis.call('ZADD', keys.wakeups, due, event_id)
end
redis.call('HSET', keys.state, 'seq', ev.seq + 1, 'clock', ev.now, 'due', due, 'repairs', repairs + 1)
if ev.waiting then
  redis.call('HSET', keys.state, 'waiting', '0') -- places may be free that were not: whoever is in line comes first
end
return { 'REPAIRED', repairs + 1, ev.seq + 1 }
