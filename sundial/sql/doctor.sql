-- What `sundial doctor` asks Postgres.

-- name: server_facts --
SELECT current_setting('server_version_num')::int AS version, clock_timestamp() AS now, session_user::text AS login

-- name: known_roles --
SELECT rolname::text FROM pg_roles WHERE rolname = ANY ($1::text[])

-- name: is_member --
SELECT pg_has_role(session_user, oid, 'MEMBER') FROM pg_roles WHERE rolname = $1

-- name: newest_import --
SELECT price_version, source, created_at
FROM price_versions
ORDER BY source LIKE 'litellm %' DESC, price_version DESC
LIMIT 1

-- name: order_backlog --
SELECT count(*) AS length, coalesce(extract(epoch FROM clock_timestamp() - min(o.created_at)), 0)::float AS oldest_s
FROM order_queue
JOIN orders o USING (order_id)

-- name: projection_backlog --
SELECT count(*) AS length, coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float AS oldest_s
FROM projection_queue

-- name: dead_letter_count --
SELECT count(*) FROM open_dead_letters
