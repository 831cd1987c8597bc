-- Numbers that straight paths and the general way go by alike.

local NEVER = 9000000000000000 -- a deadline after all others; still exact in a double
local TRAIL_MAX = 250000 -- entries kept while nobody stores them, some 25 MB; a minute or two of a rush
-- Bytes that one entry, with the block of the stream that it alone keeps alive, takes at most: its details are bounded
-- (DETAILS_BYTES_MAX in engine/booking_requests.py), and so are the places of one booking.
local JOURNAL_ENTRY_MAX = 81920
