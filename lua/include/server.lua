-- Which life of which server runs this script. A replication id is new after every restart and every promotion, and a
-- script can ask for it itself (4 us): no word of a client's about whom it talks to could be as fresh.
local function server_id()
  return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
end
