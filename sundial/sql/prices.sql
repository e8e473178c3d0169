-- Price versions, as far as the command reads them itself; meter/prices.py does the rest.

-- name: cost_differences --
SELECT count(*) FILTER (WHERE differs) AS calls, count(*) AS calls_compared, model_asked, model_answered,
       coalesce(sum(ours) FILTER (WHERE differs), 0)::bigint AS ours,
       coalesce(sum(theirs) FILTER (WHERE differs), 0)::bigint AS theirs
FROM (SELECT model_asked, model_answered, ours, theirs,
             abs(ours - theirs) > $3::bigint * tokens AND abs(ours - theirs)::numeric * 1000000 > theirs::numeric * $4::bigint AS differs
      FROM (SELECT u.model_asked, u.model_answered, coalesce(c.cost_nano, u.cost_nano) AS ours,
                   u.upstream_cost_nano AS theirs, u.tokens_in + u.tokens_out AS tokens
            FROM usage_events u
            LEFT JOIN price_corrections c ON c.account_id = u.account_id AND c.event_id = u.event_id
            WHERE u.event_id >= $1 AND u.event_id < $2 AND u.upstream_cost_nano > 0 AND u.evidence = 'provider')
           AS compared) AS judged
GROUP BY model_asked, model_answered
ORDER BY abs(coalesce(sum(ours - theirs) FILTER (WHERE differs), 0)) DESC, model_asked, model_answered

-- name: price_version --
SELECT price_version, source, created_by, created_at
FROM price_versions
WHERE $1::int IS NULL OR price_version = $1
ORDER BY price_version DESC
LIMIT 1
