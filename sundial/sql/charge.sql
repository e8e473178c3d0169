-- The receipt of one charge. Without its account the event is sought among all events of its month.

-- name: find_event --
SELECT u.*, a.external_id, d.name AS directory, k.hint AS key_hint, k.name AS key_name,
       t.seq, t.amount_mc, t.balance_after_mc
FROM usage_events u
JOIN accounts a USING (account_id)
JOIN directories d USING (directory_id)
LEFT JOIN api_keys k USING (key_id)
LEFT JOIN transfers t ON t.account_id = u.account_id AND t.transfer_id = u.event_id
WHERE u.event_id = $1 AND ($2::uuid IS NULL OR u.account_id = $2)
LIMIT 1

-- name: draws_of_transfer --
SELECT g.grant_id, g.kind, g.recorded_at, g.expires_at, d.amount_mc
FROM draws d
JOIN grants g USING (account_id, grant_id)
WHERE d.account_id = $1 AND d.transfer_id = $2
ORDER BY g.priority, g.expires_at NULLS LAST, g.seq

-- name: late_record --
SELECT * FROM event_corrections WHERE account_id = $1 AND event_id = $2

-- name: corrections_of_event --
SELECT t.transfer_id, t.seq, t.kind, t.amount_mc, t.memo, t.recorded_at, c.kind AS corrected_by, c.price_version,
       c.priced_as, c.charge_mc, c.cost_nano
FROM transfers t
LEFT JOIN corrections c ON c.account_id = t.account_id AND c.transfer_id = t.transfer_id
WHERE t.account_id = $1 AND t.link_id = $2
ORDER BY t.seq

-- name: rate_card --
SELECT definition::text FROM rate_cards WHERE card = $1

-- name: priced_by --
SELECT p.definition::text AS model, c.definition::text AS card, v.source, v.created_at
FROM price_versions v
JOIN prices p ON p.price_version = v.price_version AND p.model = $2
CROSS JOIN rate_cards c
WHERE v.price_version = $1 AND c.card = $3
