-- flags: allow-oom
-- Close a hold whose gateway has not been heard of: charge what had streamed by its last note. Run by the meter.
-- Should the gateway come back, its true record corrects this one, see settle.lua.
--
-- KEYS  account, holds, unposted, deadlines, stream          (one slot)
-- ARGV  1 account id   2 event id
--
-- Returns {'expired', charge}, {'alive'} where the deadline has moved on, or {'gone'}.

local member = ARGV[1] .. '/' .. ARGV[2]
local deadline = redis.call('ZSCORE', KEYS[4], member)
if not deadline then return {'gone'} end
if tonumber(deadline) > tonumber(redis.call('TIME')[1]) then return {'alive'} end
redis.call('ZREM', KEYS[4], member)

local hold = redis.call('HGET', KEYS[2], ARGV[2])
if not hold then return {'gone'} end
local amount, charge, draft = string.match(hold, '^(%d+) (%d+) (.*)$')
redis.call('HINCRBY', KEYS[1], 'held', string.format('%.0f', 0 - tonumber(amount)))
redis.call('HDEL', KEYS[2], ARGV[2])
if redis.call('HEXISTS', KEYS[3], ARGV[2]) == 0 and redis.call('HSETNX', KEYS[3], ARGV[2] .. '/lost', charge) == 1 then
  redis.call('HINCRBY', KEYS[1], 'unposted', charge)
  redis.call('XADD', KEYS[5], '*', 'd', draft)
end
return {'expired', tonumber(charge)}
