-- Every statement of the meter but the audit's (sql/audit.sql), those of prices (sql/prices.sql) and the migrations.
-- Rows come and go as arrays, one parameter a column: a statement costs the same round trip for one row and a thousand.
-- The long books (usage_events, transfers, draws) are written by COPY instead, see meter/books.py.
-- Times are Unix microseconds to the program (see meter/database.py), amounts millicredits.

-- Opening accounts: only what no earlier batch of this process has met ----------------------------------------------

-- name: ensure_accounts --
INSERT INTO sundial.accounts AS a
       (account_id, directory_id, external_id, plan, shard, revision, email, name, role)
SELECT i.account_id, i.directory_id, i.external_id, coalesce(p.plan, 'default'), i.shard, i.announced::int,
       i.email, i.name, i.role
  FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::smallint[], $6::boolean[],
              $7::text[], $8::text[], $9::text[])
       AS i (account_id, directory_id, external_id, plan, shard, announced, email, name, role)
  JOIN sundial.directories d ON d.directory_id = i.directory_id
  LEFT JOIN sundial.plans p ON p.plan = i.plan
 ORDER BY i.account_id
    ON CONFLICT (account_id) DO UPDATE
   SET plan = excluded.plan,
       revision = 1,
       email = excluded.email,
       name = excluded.name,
       role = excluded.role,
       updated_at = clock_timestamp()
 WHERE a.revision = 0 AND excluded.revision = 1
RETURNING a.account_id, a.revision;

-- name: share_opening --
-- Whoever opens accounts, beside others that do. 0x53554E444F50: "SUNDOP".
SELECT pg_advisory_xact_lock_shared(91625850425168);

-- name: ensure_balances --
INSERT INTO sundial.balances (account_id)
SELECT a.account_id
  FROM unnest($1::uuid[]) AS i (account_id)
  JOIN sundial.accounts a ON a.account_id = i.account_id
 ORDER BY a.account_id
    ON CONFLICT (account_id) DO NOTHING;

-- Locking and reading -----------------------------------------------------------------------------------------------

-- name: lock_balances --
SELECT b.account_id, b.balance_mc, b.seq, b.recorded_at AS recorded_at_us, b.digest,
       a.shard, a.revision, a.floor_mc, a.status, a.plan, a.mode
  FROM sundial.balances b
  JOIN sundial.accounts a ON a.account_id = b.account_id
 WHERE b.account_id = ANY ($1::uuid[])
 ORDER BY b.account_id
   FOR UPDATE OF b;

-- name: read_clock --
SELECT clock_timestamp();

-- name: open_grants --
SELECT g.account_id, g.grant_id, g.remaining_mc, g.priority, g.seq,
       g.expires_at AS expires_at_us
  FROM unnest($1::uuid[]) AS i (account_id)
  JOIN sundial.grant_balances g ON g.account_id = i.account_id AND g.open;

-- name: known_events --
-- What the books hold of events: what was lost only, at the charge that it has come to, or the true record. And the dead
-- letters that people have discarded: they are not booked should they come again.
SELECT u.event_id, u.outcome = 'lost' AND e.event_id IS NULL AS lost, coalesce(p.charge_mc, u.charge_mc) AS charge_mc,
       false AS discarded
  FROM unnest($1::uuid[], $2::uuid[]) AS i (account_id, event_id)
  JOIN sundial.usage_events u ON u.account_id = i.account_id AND u.event_id = i.event_id
  LEFT JOIN sundial.event_corrections e ON e.account_id = u.account_id AND e.event_id = u.event_id
  LEFT JOIN sundial.price_corrections p ON p.account_id = u.account_id AND p.event_id = u.event_id AND NOT p.late
UNION ALL
SELECT d.event_id, d.lost, 0, true
  FROM unnest($1::uuid[], $2::uuid[]) AS i (account_id, event_id)
  JOIN sundial.dead_letters d ON d.event_id = i.event_id AND d.account_id = i.account_id
  JOIN sundial.dead_letter_outcomes o ON o.letter_id = d.letter_id AND o.outcome = 'discarded';

-- name: rate_cards --
SELECT card, definition FROM sundial.rate_cards ORDER BY card;

-- Writing the books -------------------------------------------------------------------------------------------------

-- name: insert_grants --
WITH r AS (
    SELECT *
      FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bigint[], $6::smallint[], $7::timestamptz[],
                  $8::bigint[], $9::timestamptz[], $10::bigint[])
           AS r (account_id, grant_id, transfer_id, kind, amount_mc, priority, expires_at, seq, recorded_at,
                 remaining_mc)
), book AS (
    INSERT INTO sundial.grants
           (account_id, grant_id, transfer_id, kind, amount_mc, priority, expires_at, seq, recorded_at)
    SELECT account_id, grant_id, transfer_id, kind, amount_mc, priority, expires_at, seq, recorded_at FROM r
)
INSERT INTO sundial.grant_balances (account_id, grant_id, remaining_mc, priority, expires_at, seq)
SELECT account_id, grant_id, remaining_mc, priority, expires_at, seq FROM r;

-- name: update_grant_balances --
UPDATE sundial.grant_balances g
   SET remaining_mc = r.remaining_mc
  FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS r (account_id, grant_id, remaining_mc)
 WHERE g.account_id = r.account_id AND g.grant_id = r.grant_id;

-- name: update_balances --
UPDATE sundial.balances b
   SET balance_mc = r.balance_mc, seq = r.seq, recorded_at = r.recorded_at, digest = r.digest
  FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::bytea[])
       AS r (account_id, balance_mc, seq, recorded_at, digest)
 WHERE b.account_id = r.account_id;

-- name: insert_dead_letters --
INSERT INTO sundial.dead_letters (shard, entry_id, reason, payload, account_id, event_id, lost)
SELECT $1, entry_id, reason, payload, account_id, event_id, lost
  FROM unnest($2::text[], $3::text[], $4::bytea[], $5::uuid[], $6::uuid[], $7::boolean[])
       AS r (entry_id, reason, payload, account_id, event_id, lost)
    ON CONFLICT (letter_id) DO NOTHING;

-- name: upsert_stream_position --
INSERT INTO sundial.stream_positions AS p (shard, entry_id, entries)
VALUES ($1, $2, $3)
    ON CONFLICT (shard) DO UPDATE
   SET entry_id = CASE WHEN string_to_array(excluded.entry_id, '-')::bigint[] > string_to_array(p.entry_id, '-')::bigint[]
                       THEN excluded.entry_id ELSE p.entry_id END,
       entries = p.entries + excluded.entries,
       updated_at = clock_timestamp()
RETURNING p.entries;

-- name: stream_entries --
SELECT shard, entries FROM sundial.stream_positions;

-- name: entries_of_shard --
SELECT entries FROM sundial.stream_positions WHERE shard = $1;

-- Orders and expiry -------------------------------------------------------------------------------------------------

-- name: queued_orders --
SELECT o.order_id, o.account_id, o.kind, o.amount_mc, o.priority, o.memo,
       o.expires_at AS expires_at_us, o.created_at AS created_at_us
  FROM sundial.order_queue q
  JOIN sundial.orders o ON o.order_id = q.order_id
 WHERE q.shard = ANY ($1::smallint[])
 ORDER BY q.order_id
 LIMIT $2;

-- name: closed_orders --
SELECT order_id FROM sundial.order_outcomes WHERE order_id = ANY ($1::uuid[]);

-- name: insert_order_outcomes --
INSERT INTO sundial.order_outcomes (order_id, outcome, detail)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[]);

-- name: dequeue_orders --
DELETE FROM sundial.order_queue WHERE order_id = ANY ($1::uuid[]);

-- name: expired_grants --
SELECT g.account_id, g.grant_id
  FROM sundial.grant_balances g
  JOIN sundial.accounts a ON a.account_id = g.account_id
 WHERE g.open AND g.expires_at <= now() AND a.shard = ANY ($1::smallint[])
 ORDER BY g.expires_at
 LIMIT $2;

-- Corrections -------------------------------------------------------------------------------------------------------

-- name: due_corrections --
-- The record that waits: the one that was booked first, or the late one that corrected it.
SELECT u.account_id, u.event_id, q.late, u.model_asked,
       CASE WHEN q.late THEN e.model_answered ELSE u.model_answered END AS model_answered,
       CASE WHEN q.late THEN e.card ELSE u.card END AS card,
       CASE WHEN q.late THEN e.service_tier ELSE u.service_tier END AS service_tier,
       CASE WHEN q.late THEN e.usage ELSE u.usage END AS usage,
       CASE WHEN q.late THEN e.charge_mc ELSE u.charge_mc END AS charge_mc,
       newest.price_version
  FROM (SELECT max(price_version) AS price_version FROM sundial.price_versions) AS newest
  JOIN sundial.unpriced_events q ON q.shard = ANY ($1::smallint[]) AND q.tried_version < newest.price_version
  JOIN sundial.usage_events u ON u.account_id = q.account_id AND u.event_id = q.event_id
  LEFT JOIN sundial.event_corrections e ON e.account_id = q.account_id AND e.event_id = q.event_id
 LIMIT $2;

-- name: corrected_events --
-- Records that need no price: they have been corrected, or a late record has taken their place.
SELECT i.event_id, i.late
  FROM unnest($1::uuid[], $2::uuid[], $3::boolean[]) AS i (account_id, event_id, late)
 WHERE EXISTS (SELECT FROM sundial.price_corrections c
                WHERE c.account_id = i.account_id AND c.event_id = i.event_id AND c.late = i.late)
    OR NOT i.late
   AND EXISTS (SELECT FROM sundial.event_corrections e WHERE e.account_id = i.account_id AND e.event_id = i.event_id);

-- name: dequeue_unpriced --
DELETE FROM sundial.unpriced_events q
 USING unnest($1::uuid[], $2::uuid[], $3::boolean[]) AS i (account_id, event_id, late)
 WHERE q.account_id = i.account_id AND q.event_id = i.event_id AND q.late = i.late;

-- name: dequeue_superseded --
DELETE FROM sundial.unpriced_events q
 USING unnest($1::uuid[], $2::uuid[]) AS i (account_id, event_id)
 WHERE q.account_id = i.account_id AND q.event_id = i.event_id;

-- name: note_tried --
UPDATE sundial.unpriced_events q
   SET tried_version = $1
  FROM unnest($2::uuid[], $3::uuid[], $4::boolean[]) AS i (account_id, event_id, late)
 WHERE q.account_id = i.account_id AND q.event_id = i.event_id AND q.late = i.late AND q.tried_version < $1;

-- Dead letters ------------------------------------------------------------------------------------------------------

-- name: queued_dead_letter_orders --
SELECT o.order_id, o.letter_id, o.action, d.entry_id, d.payload, d.account_id, d.event_id, d.lost
  FROM sundial.dead_letter_queue q
  JOIN sundial.dead_letter_orders o ON o.order_id = q.order_id
  JOIN sundial.dead_letters d ON d.letter_id = o.letter_id
 WHERE q.shard = ANY ($1::smallint[])
 ORDER BY q.order_id
 LIMIT $2;

-- name: take_dead_letter_order --
SELECT q.order_id, (SELECT c.outcome FROM sundial.dead_letter_outcomes c WHERE c.order_id = q.order_id) AS outcome
  FROM sundial.dead_letter_queue q
 WHERE q.order_id = $1
   FOR UPDATE OF q;

-- name: closing_of_dead_letter --
SELECT outcome FROM sundial.dead_letter_outcomes WHERE letter_id = $1 AND outcome IN ('booked', 'discarded');

-- name: alone_with_unknown_accounts --
-- Until the transaction ends nobody opens an account: the other side of share_opening.
SELECT pg_advisory_xact_lock(91625850425168);

-- name: insert_dead_letter_outcome --
INSERT INTO sundial.dead_letter_outcomes (order_id, letter_id, outcome, detail) VALUES ($1, $2, $3, $4);

-- name: dequeue_dead_letter_order --
DELETE FROM sundial.dead_letter_queue WHERE order_id = $1;

-- name: open_letters --
SELECT event_id, lost FROM sundial.open_dead_letters
 WHERE account_id = ANY ($1::uuid[]) AND event_id IS NOT NULL;

-- Telling Redis -----------------------------------------------------------------------------------------------------

-- name: announce_accounts --
INSERT INTO sundial.projection_queue (what)
SELECT 'account:' || account_id FROM unnest($1::uuid[]) AS i (account_id);

-- name: announce_catalog --
INSERT INTO sundial.projection_queue (what) VALUES ('catalog');

-- name: notify_projection --
SELECT pg_notify('sundial_projection', '');

-- name: take_announcements --
DELETE FROM sundial.projection_queue
 WHERE position IN (SELECT position FROM sundial.projection_queue ORDER BY position LIMIT $1)
RETURNING what;

-- name: count_round --
UPDATE sundial.projection_position SET rounds = rounds + 1 RETURNING rounds;

-- name: projection_rounds --
SELECT rounds FROM sundial.projection_position;

-- name: accounts_of_shard --
SELECT a.account_id, coalesce(b.balance_mc, 0) AS balance_mc, coalesce(b.seq, 0) AS seq,
       a.shard, a.revision, a.floor_mc, a.status, a.plan, a.mode
  FROM sundial.accounts a
  LEFT JOIN sundial.balances b ON b.account_id = a.account_id
 WHERE a.shard = $1 AND a.account_id > $2
 ORDER BY a.account_id
 LIMIT $3;

-- name: accounts_by_id --
SELECT a.account_id, coalesce(b.balance_mc, 0) AS balance_mc, coalesce(b.seq, 0) AS seq,
       a.shard, a.revision, a.floor_mc, a.status, a.plan, a.mode
  FROM sundial.accounts a
  LEFT JOIN sundial.balances b ON b.account_id = a.account_id
 WHERE a.account_id = ANY ($1::uuid[]);

-- name: keys_after --
SELECT encode(sha256, 'hex') AS sha256, key_id, kind, account_id, directory_id, plan, status, name, revision,
       coalesce(extract(epoch FROM expires_at)::bigint, 0) AS expires_at
  FROM sundial.api_keys
 WHERE sha256 > $1
 ORDER BY sha256
 LIMIT $2;

-- name: keys_by_hash --
SELECT encode(sha256, 'hex') AS sha256, key_id, kind, account_id, directory_id, plan, status, name, revision,
       coalesce(extract(epoch FROM expires_at)::bigint, 0) AS expires_at
  FROM sundial.api_keys
 WHERE sha256 = ANY ($1::bytea[]);

-- name: plans --
SELECT plan, card, allowance_mc, models FROM sundial.plans ORDER BY plan;

-- name: newest_price_version --
SELECT max(price_version) FROM sundial.price_versions;

-- Keeping house -----------------------------------------------------------------------------------------------------

-- name: ensure_months --
SELECT sundial.ensure_month((now() + make_interval(months => n))::date) FROM generate_series(-1, 2) AS n;

-- name: queue_lengths --
SELECT (SELECT count(*) FROM sundial.order_queue) AS orders,
       (SELECT count(*) FROM sundial.projection_queue) AS announcements,
       (SELECT count(*) FROM sundial.open_dead_letters) AS dead_letters,
       (SELECT count(*) FROM sundial.unpriced_events) AS unpriced_events,
       (SELECT count(*) FROM sundial.transfers_default) AS transfers,
       (SELECT count(*) FROM sundial.usage_events_default) AS usage_events,
       (SELECT count(*) FROM sundial.draws_default) AS draws;

-- name: seed_directory --
INSERT INTO sundial.directories (directory_id, name)
SELECT $1, $2 WHERE NOT EXISTS (SELECT FROM sundial.directories)
    ON CONFLICT DO NOTHING;

-- name: seed_rate_card --
INSERT INTO sundial.rate_cards (card, definition) VALUES ($1, $2::jsonb) ON CONFLICT DO NOTHING;

-- name: seed_plan --
INSERT INTO sundial.plans (plan, card, allowance_mc)
SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM sundial.plans)
    ON CONFLICT DO NOTHING;
