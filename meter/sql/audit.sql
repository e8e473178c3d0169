-- The invariants, one statement each: what it returns are violations, as `subject` and `detail`. All of them see the
-- same snapshot. The numbers are those of the list of invariants in ARCHITECTURE.md.

-- name: conservation --
-- I1: the balances sum to the transfers.
SELECT 'all accounts' AS subject, format('balances sum to %s mc, transfers to %s mc', balances, transfers) AS detail
  FROM (SELECT (SELECT coalesce(sum(balance_mc), 0) FROM sundial.balances) AS balances,
               (SELECT coalesce(sum(amount_mc), 0) FROM sundial.transfers) AS transfers) AS sums
 WHERE balances <> transfers;

-- name: double_entry --
-- I1: the two sides of all transfers cancel.
SELECT 'all entries' AS subject, format('the entries sum to %s mc', sum(amount_mc)) AS detail
  FROM sundial.entries
HAVING sum(amount_mc) <> 0;

-- name: clearing --
-- I1: what moves through the clearing account leaves it again, link by link.
SELECT format('link %s', link_id) AS subject, format('%s mc are left in clearing', -sum(amount_mc)) AS detail
  FROM sundial.transfers
 WHERE contra = 'clearing'
 GROUP BY link_id
HAVING sum(amount_mc) <> 0;

-- name: history --
-- I2: per account seq is 1..n without a gap, each balance follows from the one before, time never goes back.
SELECT format('account %s', account_id) AS subject,
       format('seq %s with balance %s mc at %s follows seq %s with balance %s mc at %s by %s mc', seq, balance_after_mc,
              recorded_at, seq_before, balance_before_mc, recorded_before, amount_mc) AS detail
  FROM (SELECT account_id, seq, amount_mc, balance_after_mc, recorded_at,
               lag(seq, 1, 0::bigint) OVER account AS seq_before,
               lag(balance_after_mc, 1, 0::bigint) OVER account AS balance_before_mc,
               lag(recorded_at, 1, '-infinity') OVER account AS recorded_before
          FROM sundial.transfers
        WINDOW account AS (PARTITION BY account_id ORDER BY seq)) AS steps
 WHERE seq <> seq_before + 1 OR balance_after_mc <> balance_before_mc + amount_mc OR recorded_at < recorded_before;

-- name: balance_cache --
-- I2: the running balance, and its time, are those of the last transfer; that time, which the next transfer's is never
-- before, is not in the future by more than a clock may be wrong.
SELECT format('account %s', coalesce(b.account_id, t.account_id)) AS subject,
       format('balance %s mc at seq %s of %s, but the last transfer says %s mc at seq %s of %s', b.balance_mc, b.seq,
              b.recorded_at, t.balance_after_mc, t.seq, t.recorded_at) AS detail
  FROM sundial.balances b
  FULL JOIN (SELECT DISTINCT ON (account_id) account_id, seq, balance_after_mc, recorded_at
               FROM sundial.transfers
              ORDER BY account_id, seq DESC) AS t ON t.account_id = b.account_id
 WHERE b.account_id IS NULL
    OR b.seq <> coalesce(t.seq, 0) OR b.balance_mc <> coalesce(t.balance_after_mc, 0) OR b.recorded_at <> t.recorded_at
UNION ALL
SELECT format('account %s', account_id), format('its last transfer was recorded in the future, at %s', recorded_at)
  FROM sundial.balances
 WHERE recorded_at > clock_timestamp() + interval '5 minutes';

-- name: once --
-- I3: an event is booked once, on one account.
SELECT format('event %s', event_id) AS subject, format('is booked %s times', count(*)) AS detail
  FROM sundial.usage_events
 GROUP BY event_id
HAVING count(*) > 1;

-- name: usage_transfers --
-- I3: every usage event has its transfer and the other way round, and the amounts agree.
SELECT format('event %s of account %s', coalesce(u.event_id, t.transfer_id), coalesce(u.account_id, t.account_id)) AS subject,
       format('charge %s mc, transfer %s mc', u.charge_mc, t.amount_mc) AS detail
  FROM sundial.usage_events u
  FULL JOIN (SELECT account_id, transfer_id, amount_mc FROM sundial.transfers WHERE kind = 'usage') AS t
    ON t.account_id = u.account_id AND t.transfer_id = u.event_id
 WHERE u.event_id IS NULL OR t.transfer_id IS NULL OR u.charge_mc <> -t.amount_mc;

-- name: corrections --
-- I3, I4: a correction, by a price that came or by a late record, has its transfer, linked to its event, of what it made
-- different; nothing else corrects usage. That there is one of each at most is the tables' keys.
SELECT format('event %s of account %s', coalesce(c.event_id, t.link_id), coalesce(c.account_id, t.account_id)) AS subject,
       format('stood at %s mc, corrected to %s mc by a transfer of %s mc', c.was_mc, c.charge_mc, t.amount_mc) AS detail
  FROM sundial.corrections c
  FULL JOIN (SELECT account_id, transfer_id, link_id, amount_mc
               FROM sundial.transfers
              WHERE kind = 'adjustment' AND contra = 'usage') AS t
    ON t.account_id = c.account_id AND t.transfer_id = c.transfer_id
 WHERE t.link_id IS DISTINCT FROM c.event_id OR t.amount_mc IS DISTINCT FROM c.was_mc - c.charge_mc;

-- name: late_records --
-- I3: a late record corrects what is booked as lost, and nothing else; the price correction of what was lost comes
-- before it, that of the late record after it.
SELECT format('event %s of account %s', e.event_id, e.account_id) AS subject,
       format('has a late record, but is booked as %s', coalesce(u.outcome, 'nothing')) AS detail
  FROM sundial.event_corrections e
  LEFT JOIN sundial.usage_events u ON u.account_id = e.account_id AND u.event_id = e.event_id
 WHERE u.outcome IS DISTINCT FROM 'lost'
UNION ALL
SELECT format('event %s of account %s', p.event_id, p.account_id),
       format('late record at seq %s, price correction of %s at seq %s', r.seq,
              CASE WHEN p.late THEN 'that record' ELSE 'what was lost' END, t.seq)
  FROM sundial.price_corrections p
  LEFT JOIN sundial.event_corrections e ON e.account_id = p.account_id AND e.event_id = p.event_id
  LEFT JOIN sundial.transfers r ON r.account_id = e.account_id AND r.transfer_id = e.transfer_id
  LEFT JOIN sundial.transfers t ON t.account_id = p.account_id AND t.transfer_id = p.transfer_id
 WHERE p.late AND e.event_id IS NULL OR (t.seq > r.seq) <> p.late;

-- name: order_transfers --
-- I3: a posted order has its transfer, a refused one has none, and an order without an outcome is still queued.
SELECT format('order %s', o.order_id) AS subject,
       format('outcome %s, ordered %s mc, transfer %s mc, queued: %s', c.outcome, o.amount_mc, t.amount_mc,
              q.order_id IS NOT NULL) AS detail
  FROM sundial.orders o
  LEFT JOIN sundial.order_outcomes c ON c.order_id = o.order_id
  LEFT JOIN sundial.order_queue q ON q.order_id = o.order_id
  LEFT JOIN sundial.transfers t ON t.account_id = o.account_id AND t.transfer_id = o.order_id
 WHERE CASE c.outcome
       WHEN 'posted' THEN t.amount_mc IS DISTINCT FROM o.amount_mc
       WHEN 'refused' THEN t.amount_mc IS NOT NULL
       ELSE q.order_id IS NULL OR t.amount_mc IS NOT NULL END;

-- name: transfer_causes --
-- I3: nothing moves of itself. A transfer is of usage or corrects it (see usage_transfers, corrections), is the allowance
-- of a new account (see meter/audit_ids.py), takes back what an expired grant had left, or is what somebody ordered.
SELECT format('transfer %s of account %s', t.transfer_id, t.account_id) AS subject,
       format('%s of %s mc, seq %s: %s', t.kind, t.amount_mc, t.seq,
              CASE WHEN o.order_id IS NULL THEN 'nobody ordered it'
                   WHEN c.outcome IS DISTINCT FROM 'posted' THEN 'its order is not posted'
                   ELSE 'it and its grant are not what was ordered' END) AS detail
  FROM sundial.transfers t
  LEFT JOIN sundial.orders o ON o.order_id = t.transfer_id AND o.account_id = t.account_id
  LEFT JOIN sundial.order_outcomes c ON c.order_id = t.transfer_id
  LEFT JOIN sundial.grants g ON g.account_id = t.account_id AND g.transfer_id = t.transfer_id
 WHERE t.kind NOT IN ('usage', 'expiry') AND NOT (t.kind = 'adjustment' AND t.contra = 'usage')
   AND NOT (t.kind = 'grant' AND t.contra = 'grant' AND g.kind IS NOT DISTINCT FROM 'allowance')
   AND (c.outcome IS DISTINCT FROM 'posted' OR t.link_id IS NOT NULL
        OR (t.kind, t.contra, t.amount_mc, t.memo, t.occurred_at)
           IS DISTINCT FROM (o.kind, o.kind, o.amount_mc, o.memo, o.created_at)
        OR t.amount_mc > 0
       AND (g.grant_id, g.kind, g.priority, g.expires_at) IS DISTINCT FROM (o.order_id, o.kind, o.priority, o.expires_at))
UNION ALL
SELECT format('transfer %s of account %s', t.transfer_id, t.account_id),
       format('expiry of %s mc, seq %s at %s: of a grant that expires at %s', t.amount_mc, t.seq, t.recorded_at,
              g.expires_at)
  FROM sundial.transfers t
  LEFT JOIN sundial.grants g ON g.account_id = t.account_id AND g.grant_id = t.link_id
 WHERE t.kind = 'expiry'
   AND (t.contra <> 'expiry' OR t.amount_mc >= 0 OR g.expires_at IS NULL OR g.expires_at > t.recorded_at);

-- name: dead_letter_orders --
-- I6: what people decided about dead letters is done, or waits to be; what was booked from a letter, or found to be
-- booked when it was to be discarded, is in the books, and what was discarded is not.
SELECT format('dead letter %s', o.letter_id) AS subject,
       format('order %s to %s it: outcome %s, queued: %s', o.order_id, o.action, c.outcome, q.order_id IS NOT NULL) AS detail
  FROM sundial.dead_letter_orders o
  LEFT JOIN sundial.dead_letter_outcomes c ON c.order_id = o.order_id
  LEFT JOIN sundial.dead_letter_queue q ON q.order_id = o.order_id
 WHERE CASE c.outcome
       WHEN 'discarded' THEN o.action <> 'discard'
       WHEN 'booked' THEN false
       WHEN 'kept' THEN o.action <> 'requeue'
       WHEN 'refused' THEN false
       ELSE q.order_id IS NULL END
UNION ALL
SELECT format('dead letter %s', d.letter_id), format('was booked, but event %s is not in the books', d.event_id)
  FROM sundial.dead_letters d
  JOIN sundial.dead_letter_outcomes c ON c.letter_id = d.letter_id AND c.outcome = 'booked'
  LEFT JOIN sundial.usage_events u ON u.account_id = d.account_id AND u.event_id = d.event_id
 WHERE d.event_id IS NOT NULL AND u.event_id IS NULL
UNION ALL
SELECT format('dead letter %s', d.letter_id), format('was discarded, but event %s is booked', d.event_id)
  FROM sundial.dead_letters d
  JOIN sundial.dead_letter_outcomes c ON c.letter_id = d.letter_id AND c.outcome = 'discarded'
  JOIN sundial.usage_events u ON u.account_id = d.account_id AND u.event_id = d.event_id
  LEFT JOIN sundial.event_corrections e ON e.account_id = d.account_id AND e.event_id = d.event_id
 WHERE CASE WHEN d.lost THEN u.outcome = 'lost' ELSE u.outcome <> 'lost' OR e.event_id IS NOT NULL END;

-- name: digest_gaps --
-- I15: what was recorded since there are digests has one; and there are none of long before, which would be so where
-- somebody says that they began later than they did. An hour: Postgres's clock may have been set back at the time.
SELECT format('account %s', account_id) AS subject,
       format('%s transfers have no digest, the last of them seq %s: they had one', count(*), max(seq)) AS detail
  FROM sundial.transfers
 WHERE digest IS NULL
   AND recorded_at > coalesce((SELECT applied_at FROM sundial.schema_migrations WHERE name = '0004_digest_chain.sql'),
                              '-infinity')
 GROUP BY account_id
UNION ALL
SELECT format('migration %s', name), format('ran at %s, but transfers of before have a digest', applied_at)
  FROM sundial.schema_migrations
 WHERE name = '0004_digest_chain.sql'
   AND EXISTS (SELECT FROM sundial.transfers WHERE digest IS NOT NULL AND recorded_at < applied_at - interval '1 hour');

-- name: grant_cache --
-- I12: what a grant has left is what it was less its draws, neither negative nor more than it was.
SELECT format('grant %s of account %s', coalesce(g.grant_id, b.grant_id), coalesce(g.account_id, b.account_id)) AS subject,
       format('granted %s mc, drawn %s mc, left %s mc', g.amount_mc, coalesce(d.drawn_mc, 0), b.remaining_mc) AS detail
  FROM sundial.grants g
  FULL JOIN sundial.grant_balances b ON b.account_id = g.account_id AND b.grant_id = g.grant_id
  LEFT JOIN (SELECT account_id, grant_id, sum(amount_mc) AS drawn_mc FROM sundial.draws GROUP BY account_id, grant_id) AS d
    ON d.account_id = g.account_id AND d.grant_id = g.grant_id
 WHERE g.grant_id IS NULL OR b.grant_id IS NULL
    OR b.remaining_mc <> g.amount_mc - coalesce(d.drawn_mc, 0) OR b.remaining_mc > g.amount_mc
    OR (b.priority, b.expires_at, b.seq) IS DISTINCT FROM (g.priority, g.expires_at, g.seq);

-- name: grant_sums --
-- I12: what grants have left sums to the balance, or to nothing while it is negative.
SELECT format('account %s', b.account_id) AS subject,
       format('balance %s mc, but its grants have %s mc left', b.balance_mc, coalesce(g.remaining_mc, 0)) AS detail
  FROM sundial.balances b
  LEFT JOIN (SELECT account_id, sum(remaining_mc) AS remaining_mc FROM sundial.grant_balances GROUP BY account_id) AS g
    ON g.account_id = b.account_id
 WHERE coalesce(g.remaining_mc, 0) <> greatest(b.balance_mc, 0);

-- name: grant_transfers --
-- I12: a credit and its grant come together, with the same amount.
SELECT format('grant %s of account %s', g.grant_id, g.account_id) AS subject,
       format('granted %s mc, transfer %s mc', g.amount_mc, t.amount_mc) AS detail
  FROM sundial.grants g
  FULL JOIN (SELECT account_id, transfer_id, amount_mc, seq FROM sundial.transfers WHERE amount_mc > 0) AS t
    ON t.account_id = g.account_id AND t.transfer_id = g.transfer_id
 WHERE g.grant_id IS NULL OR t.transfer_id IS NULL OR g.amount_mc <> t.amount_mc OR g.seq <> t.seq;

-- name: draw_transfers --
-- I12: no transfer draws more than it moves, nothing is drawn for none, and what a charge leaves undrawn is debt.
SELECT format('transfer %s of account %s', d.transfer_id, d.account_id) AS subject,
       format('moves %s mc to a balance of %s mc and draws %s mc', t.amount_mc, t.balance_after_mc, d.drawn_mc) AS detail
  FROM (SELECT account_id, transfer_id, sum(amount_mc) AS drawn_mc FROM sundial.draws GROUP BY account_id, transfer_id) AS d
  FULL JOIN (SELECT account_id, transfer_id, amount_mc, balance_after_mc FROM sundial.transfers) AS t
    ON t.account_id = d.account_id AND t.transfer_id = d.transfer_id
 WHERE t.transfer_id IS NULL
    OR coalesce(d.drawn_mc, 0) <> CASE
       WHEN t.amount_mc > 0 THEN least(greatest(t.amount_mc - t.balance_after_mc, 0), t.amount_mc)
       ELSE least(greatest(t.balance_after_mc - t.amount_mc, 0), -t.amount_mc) END;

-- name: isolation --
-- I13: an answer that names the call that it answers names its own. LiteLLM echoes the id that the gateway gives each
-- call; ids of version 7 are ours, its own are of version 4.
SELECT format('event %s of account %s', event_id, account_id) AS subject,
       format('was booked by the answer to call %s', upstream_call_id) AS detail
  FROM (SELECT event_id, account_id, upstream_call_id FROM sundial.usage_events
         UNION ALL
        SELECT event_id, account_id, upstream_call_id FROM sundial.event_corrections) AS answered
 WHERE upstream_call_id <> event_id::text AND upstream_call_id ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-';

-- name: append_only --
-- I15: nobody but the owner of the books may change or remove a row.
SELECT format('%s', c.oid::regclass) AS subject,
       format('%s may %s', grantee::regrole, privilege_type) AS detail
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'sundial'
 CROSS JOIN LATERAL (
       SELECT grantee, privilege_type FROM aclexplode(c.relacl)
        UNION ALL
       SELECT x.grantee, x.privilege_type
         FROM pg_attribute a CROSS JOIN LATERAL aclexplode(a.attacl) AS x
        WHERE a.attrelid = c.oid) AS rights
 WHERE c.relkind IN ('r', 'p') AND grantee <> c.relowner AND privilege_type IN ('UPDATE', 'DELETE', 'TRUNCATE')
   AND regexp_replace(c.relname, '_(\d{4}_\d{2}|default)$', '') IN
       ('transfers', 'usage_events', 'draws', 'grants', 'orders', 'order_outcomes', 'prices', 'price_versions', 'price_corrections',
        'rate_cards', 'event_corrections', 'dead_letters', 'dead_letter_orders', 'dead_letter_outcomes',
        'checkpoints');

-- name: append_only_triggers --
-- I15: every book and each of its partitions refuses changes of whoever it is: each of its two triggers fires before any
-- change, without condition (type 27: of a row, before UPDATE or DELETE; 34: before TRUNCATE), and runs what the
-- migrations made.
SELECT format('%s', c.oid::regclass) AS subject, 'a trigger that refuses changes is missing, off or another' AS detail
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'sundial'
  LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname IN ('keep', 'keep_all') AND t.tgenabled IN ('O', 'A')
   AND t.tgfoid = to_regprocedure('sundial.refuse_change()') AND t.tgqual IS NULL AND t.tgattr::text = ''
   AND t.tgtype = CASE t.tgname WHEN 'keep' THEN 27 ELSE 34 END
 WHERE c.relkind IN ('r', 'p')
   AND regexp_replace(c.relname, '_(\d{4}_\d{2}|default)$', '') IN
       ('transfers', 'usage_events', 'draws', 'grants', 'orders', 'order_outcomes', 'prices', 'price_versions', 'price_corrections',
        'rate_cards', 'event_corrections', 'dead_letters', 'dead_letter_orders', 'dead_letter_outcomes',
        'checkpoints')
 GROUP BY c.oid
HAVING count(t.oid) <> 2
UNION ALL
SELECT 'sundial.refuse_change()', 'is not the function that the migrations made: it may let changes pass'
 WHERE NOT EXISTS (
       SELECT FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang AND l.lanname = 'plpgsql'
        WHERE p.oid = to_regprocedure('sundial.refuse_change()') AND p.proconfig IS NULL
          AND encode(sha256(convert_to(p.prosrc, 'UTF8')), 'hex')
              = 'bbe3f3a75fff7b777121a625df3a6b9679bd23e6f9a96ab1d952c5ddccccb665');

-- name: default_partitions --
-- A row outside of every month must be announced as such, by the flag off_time of its event: else a month is missing.
SELECT format('%s %s of account %s', book, id, account_id) AS subject, 'lies outside of every month' AS detail
  FROM (SELECT 'usage event' AS book, event_id AS id, account_id FROM sundial.usage_events_default
         WHERE NOT 'off_time' = ANY (flags)
        UNION ALL
        SELECT 'transfer', t.transfer_id, t.account_id
          FROM sundial.transfers_default t
          LEFT JOIN sundial.usage_events u ON u.account_id = t.account_id AND u.event_id = t.transfer_id
         WHERE NOT coalesce('off_time' = ANY (u.flags), false)
        UNION ALL
        SELECT 'draw of transfer', d.transfer_id, d.account_id
          FROM sundial.draws_default d
          LEFT JOIN sundial.usage_events u ON u.account_id = d.account_id AND u.event_id = d.transfer_id
         WHERE NOT coalesce('off_time' = ANY (u.flags), false)) AS strays;
