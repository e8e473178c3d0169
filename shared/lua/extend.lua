-- Keep a running call's hold alive, note what has streamed so far, and hold more if there is more.
--
-- KEYS  account, holds, deadlines          (one slot)
-- ARGV  1 account id   2 event id   3 more (millicredits, 0 to keep alive)   4 time to live (s)
--       5 charge so far (millicredits)   6 draft event
--
-- Returns {'ok', held, spendable after}, {'refused', held, spendable} where the credit does not suffice (the note is
-- taken all the same), or {'gone'} where the hold has expired or Redis has forgotten it.

local hold = redis.call('HGET', KEYS[2], ARGV[2])
if not hold then return {'gone'} end
local amount = tonumber(string.match(hold, '^%d+'))
local more = tonumber(ARGV[3])

local account = redis.call('HMGET', KEYS[1], 'balance', 'floor', 'mode', 'held', 'unposted')
local spendable = tonumber(account[1] or 0) - tonumber(account[2] or 0)
                  - tonumber(account[4] or 0) - tonumber(account[5] or 0)
local verdict = 'ok'
if more > 0 then
  if spendable >= more or account[3] ~= 'enforce' then
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
