#!lua flags=allow-oom
-- drop_entries: forget entries of the journal whose bookings are settled.
--
-- KEYS[1] journal  stream  bookings not yet known to be in Postgres
--
-- ARGV[1] pairs  journal id and booking id of each entry in turn, from here on; a few hundred at most
--
-- Returns {'DROPPED', count}   those that were there; another booking's entry is left, whatever its id

--- @include journal
--- @keys

local settled = {}
for i = 1, #ARGV, 2 do
  if is_entry_of(keys.journal, ARGV[i], ARGV[i + 1]) then
    settled[#settled + 1] = ARGV[i]
  end
end
if #settled > 0 then
  redis.call('XDEL', keys.journal, unpack(settled))
end
return { 'DROPPED', #settled }
