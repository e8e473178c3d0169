-- flags: allow-oom
-- Close a call: release its hold, count its charge as unposted and report it, in one step. May be repeated: while the
-- event is unposted a repeat changes nothing; afterwards it is reported again, and the meter knows it by its id.
--
-- KEYS  account, holds, unposted, deadlines, stream          (one slot)
-- ARGV  1 account id   2 event id   3 charge (millicredits)   4 UsageEvent, '' to void: release the hold, report nothing
--
-- Returns {'ok', stream entry id}, {'known'} or {'void'}.

local hold = redis.call('HGET', KEYS[2], ARGV[2])
if hold then
  redis.call('HINCRBY', KEYS[1], 'held', string.format('%.0f', 0 - tonumber(string.match(hold, '^%d+'))))
  redis.call('HDEL', KEYS[2], ARGV[2])
end
redis.call('ZREM', KEYS[4], ARGV[1] .. '/' .. ARGV[2])

if ARGV[4] == '' then return {'void'} end
if redis.call('HSETNX', KEYS[3], ARGV[2], ARGV[3]) == 0 then return {'known'} end
redis.call('HINCRBY', KEYS[1], 'unposted', ARGV[3])
return {'ok', redis.call('XADD', KEYS[5], '*', 'd', ARGV[4])}
