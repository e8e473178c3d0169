-- Orders: what people ask for. The meter posts them under the same id and says so in order_outcomes.

-- name: insert_order --
INSERT INTO orders (order_id, account_id, kind, amount_mc, priority, expires_at, memo, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)

-- name: queue_order --
INSERT INTO order_queue (order_id, account_id, shard) VALUES ($1, $2, $3)

-- name: tell_orders --
SELECT pg_notify('sundial_orders', '')

-- name: order_outcome --
SELECT o.outcome, o.detail, b.balance_mc, b.seq
FROM order_outcomes o
JOIN orders USING (order_id)
JOIN balances b USING (account_id)
WHERE o.order_id = $1
