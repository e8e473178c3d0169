-- flags: allow-oom
-- Take back what an account was told of Postgres, which does not know it. What gateways keep of it stays: holds, and
-- what is unposted. Run by the meter while admission is closed.
--
-- KEYS  account

redis.call('HDEL', KEYS[1], 'balance', 'seq', 'revision', 'floor', 'status', 'plan', 'mode', 'announced')
local kept = redis.call('HMGET', KEYS[1], 'held', 'unposted')
if tonumber(kept[1] or 0) == 0 and tonumber(kept[2] or 0) == 0 then redis.call('DEL', KEYS[1]) end
return 1
