-- How much may wait for Postgres. Needs bounds.

local JOURNAL_SAMPLES = 100 -- blocks looked at to estimate the bytes of all; about four microseconds

-- Whether the journal takes more than `bytes_max` bytes of memory, `more` entries included that are yet to be made. While
-- there are too few entries for that whatever they say, the answer costs one XLEN: it is asked for at every booking.
local function is_journal_full(journal, bytes_max, more)
  return (redis.call('XLEN', journal) + more) * JOURNAL_ENTRY_MAX > bytes_max
    and (redis.call('MEMORY', 'USAGE', journal, 'SAMPLES', JOURNAL_SAMPLES) or 0) + more * JOURNAL_ENTRY_MAX > bytes_max
end
