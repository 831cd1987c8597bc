-- Whose an entry of the journal is. Needs nothing.

-- Whether the entry of this id is there, and that of the booking ('' where an entry names none). Its id alone does not
-- tell: a replica that is promoted before it has heard of an entry, with a clock that is behind, gives the same id to
-- another. Whoever drops an entry late must not drop that one, of which nobody else may know yet.
local function is_entry_of(journal, journal_id, booking_id)
  local entry = redis.call('XRANGE', journal, journal_id, journal_id)[1]
  if not entry then
    return false
  end
  local fields = entry[2]
  for i = 1, #fields, 2 do
    if fields[i] == 'booking' then
      return fields[i + 1] == booking_id
    end
  end
  return booking_id == ''
end
