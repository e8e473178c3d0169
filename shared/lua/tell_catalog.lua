-- Replace the catalog by one that was read in Postgres since the last one was told. Run by the meter: whoever slept
-- between reading and telling finds another version, and reads again.
--
-- KEYS  version, catalog of the version that is told
-- ARGV  1 the version before, 0 where there was none   2 the version that is told   3 catalog
--
-- Returns 1, or 0 where another catalog was told meanwhile.

if (redis.call('GET', KEYS[1]) or '0') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[3])
redis.call('SET', KEYS[1], ARGV[2])
return 1
