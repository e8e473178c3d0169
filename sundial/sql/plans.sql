-- Plans and rate cards.

-- name: list_plans --
SELECT p.plan, p.card, p.allowance_mc, p.models, p.created_at, p.updated_at, count(a.account_id) AS accounts
FROM plans p
LEFT JOIN accounts a USING (plan)
GROUP BY p.plan
ORDER BY p.plan

-- name: find_plan --
SELECT plan, card, allowance_mc, models, created_at, updated_at,
       (SELECT count(*) FROM accounts a WHERE a.plan = p.plan) AS accounts
FROM plans p
WHERE plan = $1

-- name: plan_names --
SELECT plan FROM plans ORDER BY plan

-- name: card_names --
SELECT card FROM rate_cards ORDER BY card

-- name: insert_plan --
INSERT INTO plans (plan, card, allowance_mc, models) VALUES ($1, $2, $3, $4)

-- name: change_plan --
UPDATE plans
SET card = coalesce($2, card), allowance_mc = coalesce($3, allowance_mc), models = coalesce($4, models),
    updated_at = clock_timestamp()
WHERE plan = $1
RETURNING plan
