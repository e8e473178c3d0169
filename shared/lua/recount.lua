-- flags: allow-oom
-- Make the sums of an account what their parts come to. Run by the meter for one whose sums stay wrong, which no script
-- leaves them.
--
-- KEYS  account, holds, unposted          (one slot)
--
-- Returns the number of sums that were wrong.

local function sum(key)
  local total = 0
  for _, part in ipairs(redis.call('HVALS', key)) do total = total + tonumber(string.match(part, '^%d+')) end
  return total
end

if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local wrong = 0
for field, key in pairs({held = KEYS[2], unposted = KEYS[3]}) do
  local total = sum(key)
  if tonumber(redis.call('HGET', KEYS[1], field) or 0) ~= total then
    redis.call('HSET', KEYS[1], field, string.format('%.0f', total))
    wrong = wrong + 1
  end
end
return wrong
