-- For scripts that have no use for all of this unless holds have lapsed. Needs event, reap and what that needs.

-- End lapsed holds of the event behind `keys`, a few `besides` so many claims.
local function end_lapsed(keys, time, besides)
  reap_due(read_event(keys, time), besides)
end
