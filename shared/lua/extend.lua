-- Keep a running call's hold alive, note what has streamed so far, and hold more if there is more.
--
-- KEYS  account, holds, deadlines, unposted, epoch          (one slot)
-- ARGV  1 account id   2 event id   3 more (millicredits, 0 to keep alive)   4 time to live (s)
--       5 charge so far (millicredits)   6 draft event
--       7 what the gateway holds (millicredits): a hold that is gone is made again; '' to be told that it is gone
--
-- Returns {'ok', held, spendable after}, {'refused', held, spendable} where the credit does not suffice (the note is
-- taken all the same), or {'gone'} where the hold has expired or Redis has forgotten it.
--
-- Making it again changes nothing where it stands: repeats are harmless. It is not made where the call is settled, nor
-- where the account or the epoch is unknown: the meter has not told the balances yet. What has streamed is a fact and is
-- held for whatever is left; the rest of it only as far as the credit goes, as others may have taken it meanwhile.

local account = redis.call('HMGET', KEYS[1], 'balance', 'floor', 'mode', 'held', 'unposted')
local spendable = tonumber(account[1] or 0) - tonumber(account[2] or 0)
                  - tonumber(account[4] or 0) - tonumber(account[5] or 0)
local enforced = account[3] == 'enforce'

local hold = redis.call('HGET', KEYS[2], ARGV[2])
local amount
if hold then
  amount = tonumber(string.match(hold, '^%d+'))
elseif ARGV[7] == '' or not account[1] or redis.call('EXISTS', KEYS[5]) == 0
    or redis.call('HEXISTS', KEYS[4], ARGV[2]) == 1 then
  return {'gone'}
else
  amount = tonumber(ARGV[7])
  if enforced then amount = math.min(amount, math.max(spendable, 0)) end
  amount = math.max(amount, tonumber(ARGV[5]))
  spendable = spendable - amount
  redis.call('HINCRBY', KEYS[1], 'held', string.format('%.0f', amount))
end

local more = tonumber(ARGV[3])
local verdict = 'ok'
if more > 0 then
  if spendable >= more or not enforced then
    amount = amount + more
    spendable = spendable - more
    redis.call('HINCRBY', KEYS[1], 'held', string.format('%.0f', more))
  else
    verdict = 'refused'
  end
end

local deadline = tonumber(redis.call('TIME')[1]) + tonumber(ARGV[4])
redis.call('HSET', KEYS[2], ARGV[2], string.format('%.0f %s %s', amount, ARGV[5], ARGV[6]))
redis.call('ZADD', KEYS[3], deadline, ARGV[1] .. '/' .. ARGV[2])
return {verdict, amount, spendable}
