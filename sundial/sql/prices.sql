-- Price versions, as far as the command reads them itself; meter/prices.py does the rest.

-- name: cost_differences --
SELECT count(*) FILTER (WHERE differs) AS calls, count(*) AS calls_compared, model_asked, model_answered,
       coalesce(sum(ours) FILTER (WHERE differs), 0)::bigint AS ours,
       coalesce(sum(theirs) FILTER (WHERE differs), 0)::bigint AS theirs
FROM (SELECT model_asked, model_answered, ours, theirs,
             abs(ours - theirs) > $3::bigint * tokens AND abs(ours - theirs)::numeric * 1000000 > theirs::numeric * $4::bigint AS differs
      FROM (SELECT model_asked, model_answered, cost_nano AS ours, upstream_cost_nano AS theirs,
                   tokens_in + tokens_out AS tokens
            FROM standing_events
            WHERE event_id >= $1 AND event_id < $2 AND upstream_cost_nano > 0 AND evidence = 'provider')
           AS compared) AS judged
GROUP BY model_asked, model_answered
ORDER BY abs(coalesce(sum(ours - theirs) FILTER (WHERE differs), 0)) DESC, model_asked, model_answered

-- name: price_version --
SELECT price_version, source, created_by, created_at
FROM price_versions
WHERE $1::int IS NULL OR price_version = $1
ORDER BY price_version DESC
LIMIT 1
