-- A booking whose places are being changed. Needs event, places, rows, move, hold, trail, release, book.
--
-- What it is to get is held meanwhile, by holds of the change's own; and the booking's record says, where otherwise the
-- attempt stands that made it, `changing:<deadline_ms>:<change>`, so that no other change begins. Whoever else writes
-- the record (a load, a repair) leaves the mark out: then this change has nothing more to say about it.

local function read_booking(ev, booking_id)
  local record = redis.call('HGET', ev.keys.bookings, booking_id)
  return record and parse_booking(record)
end

-- The change that is under way, and until when others wait for it; nil where none is.
local function change_of(booking)
  local deadline, change = string.match(booking.attempt, '^changing:(%d+):(.*)$')
  return change, tonumber(deadline)
end

local function write_record(ev, booking_id, booking, mark)
  booking.attempt = mark
  redis.call('HSET', ev.keys.bookings, booking_id, format_booking(booking))
end

-- End those of the holds that are still there.
local function end_holds(ev, hold_ids)
  for i = 1, #hold_ids do
    local hold = find_hold(ev, hold_ids[i])
    if hold then
      end_hold(ev, hold_ids[i], hold, 'released')
    end
  end
  move_due(ev, earliest_deadline(ev))
  write_event(ev)
end
