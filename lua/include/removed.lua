-- What an audit must know that adds up bookings while they go. Needs nothing.

-- Those that an audit can still account for, some 60 bytes each. It asks after every page, every few milliseconds: of
-- what goes between, not of what goes while it reads.
local REMOVED_MAX, REMOVED_S = 4096, 600

-- A booking is gone, or has other places from now on than `booking` says. Numbered, so that a gap is seen.
local function note_removed(keys, booking_id, booking)
  local number = redis.call('HINCRBY', keys.state, 'undone', 1)
  local line = table.concat({ number, booking.journal_id, booking.places }, '|')
  redis.call('XADD', keys.removed, 'MAXLEN', REMOVED_MAX, '*', booking_id, line)
  redis.call('EXPIRE', keys.removed, REMOVED_S)
end
