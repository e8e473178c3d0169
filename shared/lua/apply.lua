-- flags: allow-oom
-- Bring an account's projection up to what Postgres has committed. Run by the meter after its commit; may be repeated
-- and may come late: an older balance never replaces a newer one.
--
-- KEYS  account, unposted          (one slot)
-- ARGV  1 balance   2 seq   3 revision   4 floor   5 status   6 plan   7 mode
--       8… fields of unposted that are dealt with: `event id`, or `event id/lost` of what was lost
--
-- A seq and a revision below -1 are older than any: then fields are dropped and nothing else changes.
--
-- Returns the number of fields dropped from unposted.

local known = redis.call('HMGET', KEYS[1], 'seq', 'revision')
if tonumber(ARGV[2]) >= tonumber(known[1] or -1) then
  redis.call('HSET', KEYS[1], 'balance', ARGV[1], 'seq', ARGV[2])
end
if tonumber(ARGV[3]) >= tonumber(known[2] or -1) then
  redis.call('HSET', KEYS[1], 'revision', ARGV[3], 'floor', ARGV[4], 'status', ARGV[5], 'plan', ARGV[6], 'mode', ARGV[7])
end

local dropped = 0
for i = 8, #ARGV do
  local charge = redis.call('HGET', KEYS[2], ARGV[i])
  if charge then
    redis.call('HDEL', KEYS[2], ARGV[i])
    redis.call('HINCRBY', KEYS[1], 'unposted', string.format('%.0f', 0 - tonumber(charge)))
    dropped = dropped + 1
  end
end
return dropped
