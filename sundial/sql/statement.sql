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
-- A call that was booked as lost counts as what its own record says, where that came by the end of the statement: with
-- its evidence and tokens. The charge is that of the entry; the difference is an adjustment.
SELECT coalesce(e.evidence, u.evidence) AS evidence, count(*) AS events, sum(-t.amount_mc)::bigint AS charge_mc,
       sum(u.cost_nano)::bigint AS cost_nano, sum(coalesce(e.tokens_in, u.tokens_in))::bigint AS tokens_in,
       sum(coalesce(e.tokens_out, u.tokens_out))::bigint AS tokens_out
FROM transfers t
JOIN usage_events u ON u.account_id = t.account_id AND u.event_id = t.transfer_id
LEFT JOIN (event_corrections e
           JOIN transfers r ON r.account_id = e.account_id AND r.transfer_id = e.transfer_id AND r.seq <= $3)
  ON e.account_id = u.account_id AND e.event_id = u.event_id
WHERE t.account_id = $1 AND t.seq > $2 AND t.seq <= $3
GROUP BY coalesce(e.evidence, u.evidence)

-- name: corrected_cost --
SELECT coalesce(sum(c.cost_nano - c.was_nano), 0)::bigint
FROM transfers t
JOIN corrections c ON c.account_id = t.account_id AND c.transfer_id = t.transfer_id
WHERE t.account_id = $1 AND t.seq > $2 AND t.seq <= $3

-- name: statement_entries --
SELECT t.transfer_id, t.seq, t.kind, t.amount_mc, t.balance_after_mc, t.link_id, t.memo, t.occurred_at, t.recorded_at,
       u.event_id, u.family, u.model_asked, u.model_answered, u.tokens_in, u.tokens_out,
       coalesce((u.usage ->> 'cached')::bigint, 0) + coalesce((u.usage ->> 'cached_audio')::bigint, 0) AS cached,
       coalesce((u.usage ->> 'reasoning')::bigint, 0) AS reasoning, u.evidence, u.outcome,
       u.flags, u.cost_nano, u.conversation, u.purpose, c.event_id AS corrects, c.kind AS corrected_by, c.price_version,
       c.priced_as, c.cost_nano - c.was_nano AS cost_difference_nano, e.evidence AS true_evidence,
       e.outcome AS true_outcome, e.tokens_in AS true_tokens_in, e.tokens_out AS true_tokens_out
FROM transfers t
LEFT JOIN usage_events u ON u.account_id = t.account_id AND u.event_id = t.transfer_id
LEFT JOIN corrections c ON c.account_id = t.account_id AND c.transfer_id = t.transfer_id
LEFT JOIN event_corrections e ON e.account_id = t.account_id AND e.transfer_id = t.transfer_id
WHERE t.account_id = $1 AND t.seq > $2 AND t.seq <= $3
ORDER BY t.seq
LIMIT $4
