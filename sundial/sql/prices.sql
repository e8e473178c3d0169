-- Price versions, as far as the command reads them itself; meter/prices.py does the rest.

-- name: price_version --
SELECT price_version, source, created_by, created_at
FROM price_versions
WHERE $1::int IS NULL OR price_version = $1
ORDER BY price_version DESC
LIMIT 1
