-- flags: allow-oom
-- Note how far the books are. Run by the meter after a commit; may be repeated and may come late: it never goes back.
--
-- KEYS  mark
-- ARGV  1 a count that only rises

if tonumber(ARGV[1]) > tonumber(redis.call('GET', KEYS[1]) or 0) then redis.call('SET', KEYS[1], ARGV[1]) end
return 1
