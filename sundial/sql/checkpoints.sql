-- name: checkpoints --
-- $1: rows at most.
SELECT checkpoint_id, created_at, public_key FROM checkpoints ORDER BY checkpoint_id DESC LIMIT $1;
