-- flags: allow-oom
-- Bring the projection of accounts up to what Postgres has committed. Run by the meter after its commit; may be repeated
-- and may come late: an older balance never replaces a newer one.
--
-- KEYS  account, unposted          of each account (all in one slot)
-- ARGV  1 balance   2 seq   3 revision   4 floor   5 status   6 plan   7 mode   8 number of fields
--       9… so many fields of unposted that are dealt with: `event id`, or `event id/lost` of what was lost
--       the same of each account that follows
--
-- A seq and a revision below -1 are older than any: then fields are dropped and nothing else changes.
--
-- Returns the number of fields dropped from unposted.

local dropped, at = 0, 1
for key = 1, #KEYS, 2 do
  local account, unposted = KEYS[key], KEYS[key + 1]
  local known = redis.call('HMGET', account, 'seq', 'revision')
  if tonumber(ARGV[at + 1]) >= tonumber(known[1] or -1) then
    redis.call('HSET', account, 'balance', ARGV[at], 'seq', ARGV[at + 1])
  end
  if tonumber(ARGV[at + 2]) >= tonumber(known[2] or -1) then
    redis.call('HSET', account, 'revision', ARGV[at + 2], 'floor', ARGV[at + 3], 'status', ARGV[at + 4],
      'plan', ARGV[at + 5], 'mode', ARGV[at + 6])
  end

  local fields = at + 8
  at = fields + tonumber(ARGV[at + 7])
  for i = fields, at - 1 do
    local charge = redis.call('HGET', unposted, ARGV[i])
    if charge then
      redis.call('HDEL', unposted, ARGV[i])
      redis.call('HINCRBY', account, 'unposted', string.format('%.0f', 0 - tonumber(charge)))
      dropped = dropped + 1
    end
  end
end
return dropped
