-- The index of neighbours (docs/keys.md, `rows`): which blocks may still have k free seats side by side.
--
-- A block is a stretch of a row without an aisle. For every k of 1..RUNS there is one bit per block, which says that
-- the block *may* have k free neighbours. Claims leave it alone; a search that finds a bit wrong clears it; freeing a
-- seat sets its block's bits again. So the index costs a claim nothing, a search skips full blocks with BITPOS, and
-- every wrong bit is paid for once. Behind the bits stand the first seats of the blocks, four bytes each, and the end.

local RUNS = 16 -- longer wishes search the blocks that may have this many
local PROBE = 16 -- entries read at once when looking for a seat's block

local function read_rows(ev)
  local shape = redis.call('HMGET', ev.keys.state, 'blocks', 'stride')
  return { key = ev.keys.rows, blocks = tonumber(shape[1]), stride = tonumber(shape[2]) }
end

-- First seats of blocks [from, to]; the one past the last block is the number of seats.
local function read_block_starts(rows, from, to)
  local base = RUNS * rows.stride
  local bytes = redis.call('GETRANGE', rows.key, base + 4 * from, base + 4 * to + 3)
  local starts = {}
  for i = 0, to - from do
    starts[i + 1] = struct.unpack('>I4', bytes, 4 * i + 1)
  end
  return starts
end

-- The block of a seat, and its length. Blocks are of similar length, so a guess and few steps find it.
local function find_block(rows, seat, seat_count)
  local low, high = 0, rows.blocks - 1
  local guess = math.floor(seat / seat_count * rows.blocks)
  while low <= high do
    local from = math.max(low, math.min(guess - PROBE / 2, high))
    local to = math.min(from + PROBE, high + 1)
    local starts = read_block_starts(rows, from, to)
    if seat < starts[1] then
      high = from - 1
    elseif seat >= starts[#starts] then
      low = to
    else
      for i = 1, #starts - 1 do
        if seat < starts[i + 1] then
          return from + i - 1, starts[i + 1] - starts[i]
        end
      end
    end
    guess = math.floor((low + high) / 2)
  end
end

-- Seats have been freed: their blocks may have any run again.
local function loosen_rows(ev, seats)
  local rows = read_rows(ev)
  local seat_count = tonumber(redis.call('HGET', ev.keys.state, 'seats'))
  local operations, done = {}, {}
  for i = 1, #seats do
    local block, length = find_block(rows, seats[i], seat_count)
    if not done[block] then
      done[block] = true
      for run = 1, math.min(RUNS, length) do
        operations[#operations + 1] = 'SET'
        operations[#operations + 1] = 'u1'
        operations[#operations + 1] = (run - 1) * rows.stride * 8 + block
        operations[#operations + 1] = 1
      end
      if #operations > 4000 then
        redis.call('BITFIELD', rows.key, unpack(operations))
        operations = {}
      end
    end
  end
  if #operations > 0 then
    redis.call('BITFIELD', rows.key, unpack(operations))
  end
end

-- A search has seen that the block's longest run is `longest`: clear the bits of longer ones.
local function tighten_rows(rows, block, longest)
  local operations = {}
  for run = longest + 1, RUNS do
    operations[#operations + 1] = 'SET'
    operations[#operations + 1] = 'u1'
    operations[#operations + 1] = (run - 1) * rows.stride * 8 + block
    operations[#operations + 1] = 0
  end
  if #operations > 0 then
    redis.call('BITFIELD', rows.key, unpack(operations))
  end
end

-- The next block in [from, to] that may have `run` free neighbours, or nil.
local function next_block(rows, run, from, to)
  if from > to then
    return nil
  end
  local base = (math.min(run, RUNS) - 1) * rows.stride * 8
  local position = redis.call('BITPOS', rows.key, 1, base + from, base + to, 'BIT')
  if position < 0 then
    return nil
  end
  return position - base
end
