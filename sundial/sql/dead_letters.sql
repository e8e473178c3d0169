-- Dead letters: entries that could not be booked, and what people decide about them. The meter does it.

-- name: list_dead_letters --
SELECT d.letter_id, d.shard, d.entry_id, d.reason, d.account_id, a.external_id, d.event_id, d.lost,
       octet_length(d.payload) AS bytes, d.recorded_at,
       coalesce(c.outcome, CASE WHEN q.letter_id IS NOT NULL THEN 'queued' ELSE 'open' END) AS state
FROM dead_letters d
LEFT JOIN accounts a USING (account_id)
LEFT JOIN dead_letter_outcomes c ON c.letter_id = d.letter_id AND c.outcome IN ('booked', 'discarded')
LEFT JOIN (SELECT DISTINCT letter_id FROM dead_letter_queue) AS q ON q.letter_id = d.letter_id
WHERE $1 OR c.outcome IS NULL
ORDER BY d.recorded_at DESC, d.letter_id
LIMIT $2

-- name: find_dead_letter --
SELECT d.letter_id, d.shard, d.entry_id, d.reason, d.account_id, a.external_id, d.event_id, d.lost, d.payload,
       d.recorded_at, coalesce(c.outcome, CASE WHEN q.letter_id IS NOT NULL THEN 'queued' ELSE 'open' END) AS state
FROM dead_letters d
LEFT JOIN accounts a USING (account_id)
LEFT JOIN dead_letter_outcomes c ON c.letter_id = d.letter_id AND c.outcome IN ('booked', 'discarded')
LEFT JOIN (SELECT DISTINCT letter_id FROM dead_letter_queue) AS q ON q.letter_id = d.letter_id
WHERE d.letter_id = $1

-- name: history_of_dead_letter --
SELECT o.order_id, o.action, o.memo, o.created_by, o.created_at, coalesce(c.outcome, 'queued') AS outcome, c.detail,
       c.recorded_at
FROM dead_letter_orders o
LEFT JOIN dead_letter_outcomes c USING (order_id)
WHERE o.letter_id = $1
ORDER BY o.order_id

-- name: insert_dead_letter_order --
INSERT INTO dead_letter_orders (order_id, letter_id, action, memo, created_by) VALUES ($1, $2, $3, $4, $5)

-- name: queue_dead_letter_order --
INSERT INTO dead_letter_queue (order_id, letter_id, shard) VALUES ($1, $2, $3)

-- name: tell_dead_letters --
SELECT pg_notify('sundial_dead_letters', '')

-- name: dead_letter_outcome --
SELECT outcome, detail FROM dead_letter_outcomes WHERE order_id = $1
