#!lua
-- check_wish: whether a claim would be granted now, without claiming anything; who could have it need not wait for it.
--
-- KEYS[1]  state     hash    the event's counters, limits and deadlines
-- KEYS[2]  held      bitmap  cell = seat index x legs + leg
-- KEYS[3]  sold      bitmap  the same
-- KEYS[4]  holds     hash    hold id -> record
-- KEYS[5]  expiries  zset    hold id scored by deadline_ms
-- KEYS[6]  users     hash    customer -> places claimed
-- KEYS[7]  rows      string  index of neighbours
-- KEYS[8]  ended     hash    how the last holds ended
-- KEYS[9]  wakeups   zset    event id scored by its earliest deadline
-- KEYS[10] trail     stream  what became of holds, for the history in Postgres
--
-- ARGV[1]  owner      customer id
-- ARGV[2]  layout     digest of the layout that the places are numbered by
-- ARGV[3]  places     `0:1;0*2;1#100,101;2?3`
--
-- Returns {'AVAILABLE'}
--         {'UNAVAILABLE'}             some of it is not to be had, or people in line come first
--         {'NOT_OPEN', status}
--         {'LIMIT', limit, maximum}
--         {'NOT_LOADED'} {'STALE_LAYOUT'}
--         {'CONTINUE'}                a bounded amount was cleaned up: call again at once

--- @include clock
--- @include bounds
--- @include event
--- @include places
--- @include rows for loosen_rows
--- @include move
--- @include rows, best for choose_seats
--- @include claim
--- @include line
--- @include hold, trail, release, reap for reap_due
--- @keys

local owner, layout = ARGV[1], ARGV[2]
local places = parse_places(ARGV[3])
if not places then
  return redis.error_reply('HF_BADARG places: ' .. ARGV[3])
end

local ev = read_event(keys, read_clock(), places)
if not ev then
  return { 'NOT_LOADED' }
elseif ev.layout ~= layout then
  return { 'STALE_LAYOUT' }
end
if ev.due <= ev.now then
  reap_due(ev)
end
if ev.status ~= 'open' or ev.now >= ev.closes then
  return { 'NOT_OPEN', ev.status == 'open' and 'closed' or ev.status }
end
local limit, maximum = check_limits(ev, places, owner)
local missing = { held = 0, sold = 0 }
if ev.due <= ev.now or (not limit and not check_places(ev, places, missing)) then
  return { 'CONTINUE' }
elseif limit then
  return { 'LIMIT', limit, maximum }
elseif #missing > 0 or line_is_first(ev) then
  return { 'UNAVAILABLE' }
end
return { 'AVAILABLE' }
