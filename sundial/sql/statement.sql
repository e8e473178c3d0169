-- One account's statement. `recorded_at` rises with `seq`, so a moment is a boundary between two seqs.

-- name: position_at --
SELECT seq, balance_after_mc
FROM transfers
WHERE account_id = $1 AND recorded_at < $2
ORDER BY recorded_at DESC, seq DESC
LIMIT 1

-- name: position_of --
SELECT seq, balance_after_mc FROM transfers WHERE account_id = $1 AND seq = $2

-- name: sums_by_kind --
SELECT kind, sum(amount_mc)::bigint AS amount_mc, count(*) AS entries
FROM transfers
WHERE account_id = $1 AND seq > $2 AND seq <= $3
GROUP BY kind

-- name: sums_by_evidence --
SELECT u.evidence, count(*) AS events, sum(-t.amount_mc)::bigint AS charge_mc, sum(u.cost_nano)::bigint AS cost_nano,
       sum(u.tokens_in)::bigint AS tokens_in, sum(u.tokens_out)::bigint AS tokens_out
FROM transfers t
JOIN usage_events u ON u.account_id = t.account_id AND u.event_id = t.transfer_id
WHERE t.account_id = $1 AND t.seq > $2 AND t.seq <= $3
GROUP BY u.evidence

-- name: corrected_cost --
SELECT coalesce(sum(c.cost_nano - u.cost_nano), 0)::bigint
FROM transfers t
JOIN price_corrections c ON c.account_id = t.account_id AND c.transfer_id = t.transfer_id
JOIN usage_events u ON u.account_id = c.account_id AND u.event_id = c.event_id
WHERE t.account_id = $1 AND t.seq > $2 AND t.seq <= $3

-- name: statement_entries --
SELECT t.transfer_id, t.seq, t.kind, t.amount_mc, t.balance_after_mc, t.link_id, t.memo, t.occurred_at, t.recorded_at,
       u.event_id, u.family, u.model_asked, u.model_answered, u.tokens_in, u.tokens_out,
       coalesce((u.usage ->> 'cached')::bigint, 0) + coalesce((u.usage ->> 'cached_audio')::bigint, 0) AS cached,
       coalesce((u.usage ->> 'reasoning')::bigint, 0) AS reasoning, u.evidence, u.outcome,
       u.flags, u.cost_nano, u.conversation, u.purpose, c.event_id AS corrects, c.price_version, c.priced_as,
       c.cost_nano - e.cost_nano AS cost_difference_nano
FROM transfers t
LEFT JOIN usage_events u ON u.account_id = t.account_id AND u.event_id = t.transfer_id
LEFT JOIN price_corrections c ON c.account_id = t.account_id AND c.transfer_id = t.transfer_id
LEFT JOIN usage_events e ON e.account_id = c.account_id AND e.event_id = c.event_id
WHERE t.account_id = $1 AND t.seq > $2 AND t.seq <= $3
ORDER BY t.seq
LIMIT $4
