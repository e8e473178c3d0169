-- Price versions: written once, whole, and never changed. meter/prices.py runs these.

-- name: lock_prices --
SELECT pg_advisory_xact_lock(hashtext('sundial.prices'));

-- name: newest_prices --
SELECT price_version, digest FROM sundial.price_versions ORDER BY price_version DESC LIMIT 1;

-- name: newest_import --
-- Where the newest version comes from that is no override, nor one taken back ($1).
SELECT source FROM sundial.price_versions WHERE source <> $1 ORDER BY price_version DESC LIMIT 1;

-- name: newest_imported --
-- What was imported last for model $1 while no override stood over it.
SELECT definition::text AS definition
  FROM sundial.prices
 WHERE model = $1 AND NOT coalesce((definition ->> 'override')::boolean, false)
 ORDER BY price_version DESC
 LIMIT 1;

-- name: named_versions --
-- The highest number above $1, up to $2, that an event names which waits for a price.
SELECT max(r.price_version)
  FROM sundial.unpriced_events q
  JOIN sundial.event_records r ON r.account_id = q.account_id AND r.event_id = q.event_id AND r.late = q.late
 WHERE r.price_version > $1 AND r.price_version <= $2;

-- name: price_definitions --
SELECT definition::text AS definition FROM sundial.prices WHERE price_version = $1;

-- name: insert_price_version --
INSERT INTO sundial.price_versions (price_version, source, digest, created_by) VALUES ($1, $2, $3, $4);

-- name: insert_prices --
INSERT INTO sundial.prices (price_version, model, definition)
SELECT $1, r.model, r.definition::jsonb FROM unnest($2::text[], $3::text[]) AS r (model, definition);

-- name: announce_prices --
INSERT INTO sundial.projection_queue (what) VALUES ('catalog');

-- name: notify_prices --
SELECT pg_notify('sundial_projection', '');
