-- Accounts, as people see and change them. Amounts in millicredits.

-- name: may_take_role --
SELECT current_user <> rolname AND pg_has_role(current_user, oid, 'MEMBER') FROM pg_roles WHERE rolname = $1

-- name: find_accounts --
SELECT a.account_id, a.external_id, d.name AS directory, a.kind, a.plan, a.status, a.mode, a.floor_mc, a.shard, a.email,
       a.name, a.role, a.revision, a.created_at, b.balance_mc, b.seq
FROM accounts a
JOIN directories d USING (directory_id)
LEFT JOIN balances b USING (account_id)
WHERE (a.account_id = $1::uuid OR a.external_id = $2) AND ($3::text IS NULL OR d.name = $3)
ORDER BY a.account_id = $1::uuid DESC NULLS LAST, d.name
LIMIT 20

-- name: list_accounts --
SELECT a.account_id, a.external_id, d.name AS directory, a.kind, a.plan, a.status, a.mode, a.floor_mc, a.email, a.name,
       a.created_at, b.balance_mc, b.seq
FROM accounts a
JOIN directories d USING (directory_id)
LEFT JOIN balances b USING (account_id)
WHERE ($1::text IS NULL OR d.name = $1) AND ($2::text IS NULL OR a.plan = $2) AND ($3::text IS NULL OR a.status = $3)
  AND ($4::text IS NULL OR strpos(lower(a.external_id), lower($4)) > 0 OR strpos(lower(a.email), lower($4)) > 0
       OR strpos(lower(a.name), lower($4)) > 0)
ORDER BY a.created_at DESC, a.account_id
LIMIT $5 OFFSET $6

-- name: account_grants --
SELECT g.grant_id, g.kind, g.amount_mc, b.remaining_mc, g.priority, g.expires_at, g.recorded_at
FROM grants g
JOIN grant_balances b USING (account_id, grant_id)
WHERE g.account_id = $1
ORDER BY b.remaining_mc = 0, g.priority, g.expires_at NULLS LAST, g.seq
LIMIT $2

-- name: queued_orders --
SELECT o.order_id, o.kind, o.amount_mc, o.memo, o.created_by, o.created_at
FROM order_queue
JOIN orders o USING (order_id)
WHERE o.account_id = $1
ORDER BY o.order_id
LIMIT 100

-- name: directory_names --
SELECT name FROM directories ORDER BY name

-- name: ensure_directory --
INSERT INTO directories (directory_id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING

-- name: insert_account --
INSERT INTO accounts (account_id, directory_id, external_id, kind, plan, shard, email, name)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT DO NOTHING
RETURNING account_id

-- name: insert_balance --
INSERT INTO balances (account_id) VALUES ($1) ON CONFLICT DO NOTHING

-- name: change_account --
UPDATE accounts
SET plan = coalesce($2, plan), status = coalesce($3, status), mode = coalesce($4, mode),
    floor_mc = coalesce($5, floor_mc), revision = revision + 1, updated_at = clock_timestamp()
WHERE account_id = $1
RETURNING account_id, plan, status, mode, floor_mc, revision

-- name: queue_projection --
INSERT INTO projection_queue (what) VALUES ($1)

-- name: tell_projection --
SELECT pg_notify('sundial_projection', '')

-- name: change_plan_of_keys --
UPDATE api_keys SET plan = $2
WHERE account_id = $1 AND kind = 'personal' AND status = 'active'
RETURNING encode(sha256, 'hex') AS sha256
