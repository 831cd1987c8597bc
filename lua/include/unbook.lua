-- Undoing a booking that is not in the ledger. Needs event, places, rows, move, hold, trail, release, block, removed.

-- Whoever made the booking may try again with the same idempotency key, and `owner`, unless '', hears of the refusal.
local function tell_refused(keys, booking_id, owner, body)
  if keys.once and redis.call('GET', keys.once) == body .. '|' .. booking_id then
    redis.call('DEL', keys.once) -- a refusal is not remembered: the same request may succeed later
  end
  if owner ~= '' then
    remember_end({ keys = keys }, booking_id, 'refused', owner) -- also of an event that is being built anew
  end
end

-- Leave places sold, to nobody. How many they are is told, so that an audit takes none of them for those of a booking
-- that it finds only in the ledger.
local function keep_places(ev, places)
  for i = 1, #places do
    local suffixes = counter_suffixes(places, places[i])
    for j = 1, #suffixes do
      redis.call('HINCRBY', ev.keys.state, 'kept' .. suffixes[j], places[i].quantity)
    end
  end
end

-- Free what the booking owns, and only that. Unless its places are kept: one of them is another's, of which this state
-- knows nothing, and would be sold and refused again, to one customer after the other.
local function undo_booking(ev, booking_id, booking, owner, keeps)
  local places = parse_places(booking.places)
  if keeps then
    keep_places(ev, places)
  else
    move_places(ev, places, 'sold', 'free')
  end
  redis.call('HDEL', ev.keys.bookings, booking_id)
  forget_user_places(ev, booking.owner, booking.quantity)
  unmark_block(ev.keys, booking_id, booking.owner)
  if owner ~= '' then
    note_hold(ev, booking_id, 'refused', ev.now, booking)
  end
  ev.seq = ev.seq + 1
  write_event(ev)
  note_removed(ev.keys, booking_id, booking)
end
