-- flags: allow-oom
-- Close a call: release its hold, count its charge as unposted and report it, in one step. May be repeated: while the
-- event is unposted a repeat changes nothing; afterwards it is reported again, and the meter knows it by its id.
--
-- What was lost (the last note of a gateway that died) and the call's true record are unposted each for itself, under
-- `event id/lost` and `event id`: the meter corrects the one by the other, in whichever order they come. Until it has
-- both may count, which shows the customer less; a lost one is not counted any more once the true one is.
--
-- KEYS  account, holds, unposted, deadlines, stream          (one slot)
-- ARGV  1 account id   2 event id   3 charge (millicredits)   4 UsageEvent, '' to void: release the hold, report nothing
--       5 '/lost' where the event says what was lost, else '' or left out
--
-- Returns {'ok', stream entry id}, {'known'} or {'void'}.

local hold = redis.call('HGET', KEYS[2], ARGV[2])
if hold then
  redis.call('HINCRBY', KEYS[1], 'held', string.format('%.0f', 0 - tonumber(string.match(hold, '^%d+'))))
  redis.call('HDEL', KEYS[2], ARGV[2])
end
redis.call('ZREM', KEYS[4], ARGV[1] .. '/' .. ARGV[2])

if ARGV[4] == '' then return {'void'} end
local kind = ARGV[5] or ''
if kind ~= '' and redis.call('HEXISTS', KEYS[3], ARGV[2]) == 1 then return {'known'} end
if redis.call('HSETNX', KEYS[3], ARGV[2] .. kind, ARGV[3]) == 0 then return {'known'} end
redis.call('HINCRBY', KEYS[1], 'unposted', ARGV[3])
return {'ok', redis.call('XADD', KEYS[5], '*', 'd', ARGV[4])}
