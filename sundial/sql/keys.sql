-- API keys. The secret is nowhere; its SHA-256 finds the key, its last four characters tell people which one it is.

-- name: insert_key --
INSERT INTO api_keys (key_id, sha256, hint, kind, directory_id, account_id, plan, name, expires_at, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)

-- name: list_keys --
SELECT k.key_id, k.hint, k.kind, k.name, d.name AS directory, k.account_id, a.external_id, k.plan,
       CASE WHEN k.status = 'active' AND k.expires_at <= clock_timestamp() THEN 'expired' ELSE k.status END AS status,
       k.expires_at, k.created_by, k.created_at, k.revoked_at
FROM api_keys k
JOIN directories d USING (directory_id)
LEFT JOIN accounts a USING (account_id)
WHERE ($1::uuid IS NULL OR k.account_id = $1) AND ($2::text IS NULL OR k.kind = $2) AND ($3 OR k.status = 'active')
ORDER BY k.created_at DESC, k.key_id
LIMIT $4

-- name: find_keys --
SELECT key_id, encode(sha256, 'hex') AS sha256, hint, kind, name, status
FROM api_keys
WHERE key_id = $1::uuid OR ($1 IS NULL AND hint = $2) OR sha256 = $3
ORDER BY status, created_at
LIMIT 20

-- name: revoke_key --
UPDATE api_keys SET status = 'revoked', revoked_at = clock_timestamp()
WHERE key_id = $1 AND status = 'active'
RETURNING key_id
