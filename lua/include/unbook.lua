-- Undoing a booking that is not in the ledger. Needs event, places, rows, move, hold, trail, release,
-- block.

-- Whoever made the booking may try again with the same idempotency key, and `owner`, unless '', hears of the refusal.
local function tell_refused(keys, booking_id, owner, body)
  if keys.once and redis.call('GET', keys.once) == body .. '|' .. booking_id then
    redis.call('DEL', keys.once) -- a refusal is not remembered: the same request may succeed later
  end
  if owner ~= '' then
    remember_end({ keys = keys }, booking_id, 'refused', owner) -- also of an event that is being built anew
  end
end

-- Free what the booking owns, and only that. Unless its places are kept: one of them is another's, of which this state
-- knows nothing, and would be sold and refused again, to one customer after the other.
local function undo_booking(ev, booking_id, booking, owner, keeps)
  if not keeps then
    move_places(ev, parse_places(booking.places), 'sold', 'free')
  end
  redis.call('HDEL', ev.keys.bookings, booking_id)
  forget_user_places(ev, booking.owner, booking.quantity)
  unmark_block(ev.keys, booking_id, booking.owner)
  if owner ~= '' then
    note_hold(ev, booking_id, 'refused', ev.now, booking)
  end
  ev.seq = ev.seq + 1
  write_event(ev)
  redis.call('HINCRBY', ev.keys.state, 'undone', 1) -- who is counting bookings meanwhile must know that one is gone
end
