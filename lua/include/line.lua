-- People in line for places (docs/keys.md, `waitlist`). Needs event.
--
-- The state's field `waiting` says whether they come first. Without it nobody is in line. 'asked' says that everyone in
-- line was asked about everything that is free, and nobody could use it: it is anybody's. A number says that places came
-- free since, or people, and at which rank in line the asking goes on: until it is through, nobody else may claim
-- anything. Whatever frees a place sets it to '0' in the same script (move.lua), so that there is no moment in between.

local function line_is_first(ev)
  return ev.waiting and ev.waiting ~= 'asked'
end
