-- Hold credit for one call, creating the account when a user is seen for the first time. All or nothing.
--
-- KEYS  epoch, account, holds, deadlines, stream          (one slot)
-- ARGV  1 account id   2 event id   3 plan   4 full   5 slice   6 least   (millicredits)
--       7 time to live (s)   8 stream cap (entries)   9 draft event
--       10 AccountSeen message, '' where the account must exist, '?' where it may be had if it is needed
--       11 allowance (millicredits)
--
-- Returns {'ok', held, spendable after, mode} or a refusal that changed nothing:
--   {'closed'} no epoch: Redis may have forgotten   {'stream_full'}   {'unknown'}   {'blocked', status}
--   {'announce'} a user who is new, or forgotten: repeat with the AccountSeen message
--   {'plan', plan} the account has another plan: price again and repeat
--   {'exhausted', spendable, balance}
-- The amount held is `full` where the account could pay it four times over, else a quarter of what it could pay, at
-- least `slice` and at most `full`, else what is left, if that is at least `least`: none is cut short while there is much
-- credit, and none is stranded. Of an answer that cannot be extended (full is more than slice) what is left is halved
-- beyond `least`: it never locks out another call that comes beside it, as an answer does beside its title.
-- A call that costs nothing (slice 0) is refused to nobody who is not blocked.

if redis.call('EXISTS', KEYS[1]) == 0 then return {'closed'} end
if redis.call('XLEN', KEYS[5]) >= tonumber(ARGV[8]) then return {'stream_full'} end

local function read()
  return redis.call('HMGET', KEYS[2], 'balance', 'floor', 'status', 'plan', 'mode', 'held', 'unposted', 'revision',
                    'announced')
end

-- A user is announced once. One of whom the meter knows by a usage event alone (revision 0: Redis forgot the announcement
-- before it was booked, and the event came again from a journal) has had no allowance yet, and is announced too.
local account = read()
if not account[1] and ARGV[10] == '' then return {'unknown'} end
if ARGV[10] ~= '' and not account[9] and (not account[1] or account[8] == '0') then
  if ARGV[10] == '?' then return {'announce'} end
  for _, pair in ipairs({{'seq', '0'}, {'revision', '0'}, {'floor', '0'}, {'status', 'active'}, {'mode', 'enforce'}}) do
    redis.call('HSETNX', KEYS[2], pair[1], pair[2])
  end
  redis.call('HINCRBY', KEYS[2], 'balance', ARGV[11])
  redis.call('HSET', KEYS[2], 'plan', ARGV[3], 'announced', '1')
  redis.call('XADD', KEYS[5], '*', 'd', ARGV[10])
  account = read()
end

local balance, floor = tonumber(account[1]), tonumber(account[2])
local spendable = balance - floor - tonumber(account[6] or 0) - tonumber(account[7] or 0)
if account[3] ~= 'active' then return {'blocked', account[3]} end
if account[4] ~= ARGV[3] then return {'plan', account[4]} end

local known = redis.call('HGET', KEYS[3], ARGV[2])
if known then return {'ok', tonumber(string.match(known, '^%d+')), spendable, account[5]} end

local full, slice, least = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local amount
local most = spendable
if full > slice and spendable > least then most = least + math.ceil((spendable - least) / 2) end
if slice == 0 then amount = slice
elseif most >= slice then amount = math.min(full, math.max(slice, math.floor(spendable / 4)))
elseif spendable >= least and spendable > 0 then amount = most
elseif account[5] == 'enforce' then return {'exhausted', spendable, balance}
else amount = slice end

local deadline = tonumber(redis.call('TIME')[1]) + tonumber(ARGV[7])
redis.call('HSET', KEYS[3], ARGV[2], string.format('%.0f 0 %s', amount, ARGV[9]))
redis.call('HINCRBY', KEYS[2], 'held', string.format('%.0f', amount))
redis.call('ZADD', KEYS[4], deadline, ARGV[1] .. '/' .. ARGV[2])
return {'ok', amount, spendable - amount, account[5]}
