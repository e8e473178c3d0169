-- flags: allow-oom
-- Bring API keys up to what was read in Postgres. Run by the meter; may be repeated and may come late: an older record
-- never replaces a newer one. What Redis says already is not written again.
--
-- KEYS  keys, revisions          (one slot)
-- ARGV  of each key: SHA-256, revision, record
--
-- Returns the number of records that were written.

local written = 0
for at = 1, #ARGV, 3 do
  local known = tonumber(redis.call('HGET', KEYS[2], ARGV[at]) or 0)
  local revision = tonumber(ARGV[at + 1])
  if revision >= known and redis.call('HGET', KEYS[1], ARGV[at]) ~= ARGV[at + 2] then
    redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 2])
    written = written + 1
  end
  if revision > known then redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1]) end
end
return written
