-- The books, and what surrounds them. Forward only: a released migration is never edited (its checksum is kept).
--
-- Books (append-only; nobody may change a row): transfers, usage_events, draws, grants, orders, order_outcomes,
-- prices, price_versions, rate_cards.   Checked caches of the books: balances, grant_balances.
-- Masters (changed by people): directories, plans, accounts, api_keys.   Queues: order_queue, projection_queue.
-- Amounts: *_mc millicredits, *_nano nano-USD. Money of an account is only ever touched under its `balances` row lock.

CREATE SCHEMA IF NOT EXISTS sundial;
SET LOCAL search_path = sundial;

-- Masters ------------------------------------------------------------------------------------------------------------

CREATE TABLE directories (
    directory_id uuid PRIMARY KEY,
    name         text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE rate_cards (                       -- immutable: a changed card is another card, e.g. cost@2
    card       text PRIMARY KEY,
    definition jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE plans (
    plan         text PRIMARY KEY CHECK (plan ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    card         text NOT NULL REFERENCES rate_cards,
    allowance_mc bigint NOT NULL CHECK (allowance_mc BETWEEN 0 AND 9007199254740991),
    models       text[] NOT NULL DEFAULT '{}',  -- shell patterns; empty: all
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE price_versions (
    price_version integer PRIMARY KEY CHECK (price_version > 0),
    source        text NOT NULL,                -- e.g. 'litellm 1.106.2' or 'operator'
    digest        bytea NOT NULL,               -- SHA-256 over the sorted definitions
    created_by    text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE prices (
    price_version integer NOT NULL REFERENCES price_versions,
    model         text NOT NULL,
    definition    jsonb NOT NULL,               -- shared.pricing.PricedModel
    PRIMARY KEY (price_version, model)
);

CREATE TABLE accounts (
    account_id   uuid PRIMARY KEY,              -- UUIDv5(directory_id, external_id): unique by construction
    directory_id uuid NOT NULL REFERENCES directories,
    external_id  text NOT NULL CHECK (length(external_id) BETWEEN 1 AND 128),
    kind         text NOT NULL DEFAULT 'person' CHECK (kind IN ('person', 'service')),
    plan         text NOT NULL REFERENCES plans,
    status       text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'blocked')),
    mode         text NOT NULL DEFAULT 'enforce' CHECK (mode IN ('enforce', 'warn', 'shadow')),
    floor_mc     bigint NOT NULL DEFAULT 0 CHECK (floor_mc BETWEEN -9007199254740991 AND 9007199254740991),
    shard        smallint NOT NULL CHECK (shard BETWEEN 0 AND 15),
    email        text NOT NULL DEFAULT '',      -- labels: shown, never trusted
    name         text NOT NULL DEFAULT '',
    role         text NOT NULL DEFAULT '',
    revision     bigint NOT NULL DEFAULT 1,     -- rises with every change of plan, status, mode or floor; 0: known from a
                                                -- usage event alone, its plan is a guess until the user is announced
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX accounts_external ON accounts (external_id);
CREATE INDEX accounts_shard ON accounts (shard, account_id);

CREATE TABLE api_keys (
    key_id       uuid PRIMARY KEY,
    sha256       bytea NOT NULL UNIQUE CHECK (length(sha256) = 32),   -- the secret itself is shown once and kept nowhere
    hint         text NOT NULL,                 -- last four characters, to tell keys apart
    kind         text NOT NULL CHECK (kind IN ('personal', 'service')),
    directory_id uuid NOT NULL REFERENCES directories,
    account_id   uuid REFERENCES accounts,
    plan         text NOT NULL REFERENCES plans,
    name         text NOT NULL DEFAULT '',
    status       text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'revoked')),
    expires_at   timestamptz,
    created_by   text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    revoked_at   timestamptz,
    CHECK (kind = 'service' OR account_id IS NOT NULL)
);

-- Books --------------------------------------------------------------------------------------------------------------
-- Keys of the long books begin with the id, not with the account: ids rise with time, so that rows are added at the edge
-- of an index whose last pages are in memory, however long the books grow. By account they are found through transfers.

CREATE TABLE balances (
    account_id  uuid PRIMARY KEY REFERENCES accounts,
    balance_mc  bigint NOT NULL DEFAULT 0 CHECK (balance_mc BETWEEN -9007199254740991 AND 9007199254740991),
    seq         bigint NOT NULL DEFAULT 0 CHECK (seq >= 0),
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()        -- of the last transfer: never goes back
) WITH (fillfactor = 50);

CREATE TABLE transfers (
    account_id       uuid NOT NULL,
    transfer_id      uuid NOT NULL,             -- UUIDv7: the event's, the order's, or the meter's own
    seq              bigint NOT NULL CHECK (seq > 0),                 -- 1..n per account without a gap
    kind             text NOT NULL CHECK (kind IN ('usage', 'grant', 'purchase', 'expiry', 'adjustment', 'refund', 'move')),
    contra           text NOT NULL CHECK (contra IN ('usage', 'grant', 'purchase', 'expiry', 'adjustment', 'clearing', 'lost')),
    amount_mc        bigint NOT NULL CHECK (amount_mc BETWEEN -9007199254740991 AND 9007199254740991),
    balance_after_mc bigint NOT NULL,
    link_id          uuid,                      -- the transfer, event or grant that this one corrects or belongs to
    memo             text NOT NULL DEFAULT '',
    occurred_at      timestamptz NOT NULL,      -- the gateway's or the orderer's clock
    recorded_at      timestamptz NOT NULL,      -- Postgres's clock; rises with seq; decides the statement's month
    PRIMARY KEY (transfer_id, account_id)
) PARTITION BY RANGE (transfer_id);
CREATE INDEX transfers_history ON transfers (account_id, seq);
CREATE INDEX transfers_recorded ON transfers (account_id, recorded_at);

CREATE VIEW entries AS                          -- the two sides of every transfer; they cancel by construction
    SELECT transfer_id, account_id::text AS account, amount_mc, recorded_at FROM transfers
    UNION ALL
    SELECT transfer_id, 'house:' || contra, -amount_mc, recorded_at FROM transfers;

CREATE TABLE usage_events (
    account_id         uuid NOT NULL,
    event_id           uuid NOT NULL,
    key_id             uuid NOT NULL,
    family             text NOT NULL,
    model_asked        text NOT NULL,
    model_answered     text NOT NULL DEFAULT '',
    priced_as          text NOT NULL DEFAULT '',
    price_version      integer NOT NULL,
    card               text NOT NULL,
    service_tier       text NOT NULL DEFAULT '',
    tokens_in          bigint NOT NULL CHECK (tokens_in >= 0),        -- sums, for people and indexes
    tokens_out         bigint NOT NULL CHECK (tokens_out >= 0),
    usage              jsonb NOT NULL,                                -- shared.usage.Usage, the disjoint kinds
    charge_mc          bigint NOT NULL CHECK (charge_mc >= 0),
    cost_nano          bigint NOT NULL CHECK (cost_nano >= 0),
    gateway_charge_mc  bigint NOT NULL,                               -- what the gateway had counted as unposted
    upstream_cost_nano bigint NOT NULL DEFAULT 0,
    hold_mc            bigint NOT NULL DEFAULT 0,
    evidence           text NOT NULL CHECK (evidence IN ('provider', 'recounted', 'checkpoint', 'none')),
    outcome            text NOT NULL CHECK (outcome IN ('complete', 'client_gone', 'upstream_error', 'timeout', 'drained', 'exhausted', 'lost')),
    flags              text[] NOT NULL DEFAULT '{}',
    stream             boolean NOT NULL,
    status             smallint NOT NULL,
    started_at         timestamptz NOT NULL,
    first_byte_us      bigint NOT NULL DEFAULT 0,
    settled_at         timestamptz NOT NULL,
    upstream_call_id   text NOT NULL DEFAULT '',
    gateway            text NOT NULL DEFAULT '',
    conversation       text NOT NULL DEFAULT '',
    message            text NOT NULL DEFAULT '',
    purpose            text NOT NULL DEFAULT '',
    recorded_at        timestamptz NOT NULL,
    PRIMARY KEY (event_id, account_id)
) PARTITION BY RANGE (event_id);

CREATE TABLE grants (                           -- what an account was given or bought; consumed by draws
    account_id  uuid NOT NULL,
    grant_id    uuid NOT NULL,                  -- an order's id, or shared.ids.allowance_id
    transfer_id uuid NOT NULL,                  -- the transfer that credited it
    kind        text NOT NULL CHECK (kind IN ('allowance', 'grant', 'purchase', 'adjustment', 'refund')),
    amount_mc   bigint NOT NULL CHECK (amount_mc > 0),
    priority    smallint NOT NULL DEFAULT 100,  -- lower is drawn first; then earliest expiry, then grant of lowest seq
    expires_at  timestamptz,
    seq         bigint NOT NULL,                -- of its transfer: the order of creation
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (account_id, grant_id)
);

CREATE TABLE grant_balances (                   -- checked cache: amount less draws, and what orders the drawing
    account_id   uuid NOT NULL,
    grant_id     uuid NOT NULL,
    remaining_mc bigint NOT NULL CHECK (remaining_mc >= 0),
    priority     smallint NOT NULL,
    expires_at   timestamptz,
    seq          bigint NOT NULL,
    open         boolean GENERATED ALWAYS AS (remaining_mc > 0) STORED,
    PRIMARY KEY (account_id, grant_id)
) WITH (fillfactor = 50);
-- On `open`, not on remaining_mc: a draw that leaves something touches no index (a heap-only update).
CREATE INDEX grant_balances_open ON grant_balances (account_id) WHERE open;
CREATE INDEX grant_balances_expiry ON grant_balances (expires_at) WHERE open;

CREATE TABLE draws (                            -- which grant paid which transfer
    account_id  uuid NOT NULL,
    transfer_id uuid NOT NULL,                  -- a charge; an expiry; or, where a grant covers a debt, that grant's own transfer
    grant_id    uuid NOT NULL,
    amount_mc   bigint NOT NULL CHECK (amount_mc > 0),
    PRIMARY KEY (transfer_id, account_id, grant_id)
) PARTITION BY RANGE (transfer_id);

CREATE TABLE orders (                           -- what a person asks for; only the meter posts it
    order_id   uuid PRIMARY KEY,                -- UUIDv7; becomes the transfer's id
    account_id uuid NOT NULL REFERENCES accounts,
    kind       text NOT NULL CHECK (kind IN ('grant', 'adjustment')),
    amount_mc  bigint NOT NULL CHECK (amount_mc <> 0 AND amount_mc BETWEEN -9007199254740991 AND 9007199254740991),
    priority   smallint NOT NULL DEFAULT 100,
    expires_at timestamptz,
    memo       text NOT NULL DEFAULT '' CHECK (length(memo) <= 500),
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (kind <> 'grant' OR amount_mc > 0)
);

CREATE TABLE order_outcomes (
    order_id    uuid PRIMARY KEY REFERENCES orders,
    outcome     text NOT NULL CHECK (outcome IN ('posted', 'refused')),
    detail      text NOT NULL DEFAULT '',
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE dead_letters (                     -- entries that could not be booked, whole, for a person to look at
    shard       smallint NOT NULL,
    entry_id    text NOT NULL,
    reason      text NOT NULL,
    payload     bytea NOT NULL,
    account_id  uuid,                           -- of a usage event that could be read: its charge stays unposted
    event_id    uuid,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (shard, entry_id)
);

-- Queues and positions -----------------------------------------------------------------------------------------------

CREATE TABLE order_queue (
    order_id   uuid PRIMARY KEY REFERENCES orders,
    account_id uuid NOT NULL,
    shard      smallint NOT NULL
);
CREATE INDEX order_queue_shard ON order_queue (shard, order_id);

CREATE TABLE projection_queue (                 -- what changed among the masters and must be told to Redis
    position   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    what       text NOT NULL CHECK (what ~ '^(catalog|key:[0-9a-f]{64}|account:[0-9a-f-]{36})$'),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE stream_positions (
    shard      smallint PRIMARY KEY,
    entry_id   text NOT NULL,                   -- last entry of the shard's stream that a committed batch held
    entries    bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Months -------------------------------------------------------------------------------------------------------------
-- transfers, usage_events and draws are partitioned by the month inside their UUIDv7 key, in UTC. Keys outside of the
-- months that exist fall into the default partition, where the audit finds them.

CREATE TABLE transfers_default PARTITION OF transfers DEFAULT;
CREATE TABLE usage_events_default PARTITION OF usage_events DEFAULT;
CREATE TABLE draws_default PARTITION OF draws DEFAULT;

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: the books are append-only; post a correcting entry instead', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE FUNCTION uuid7_floor(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- A month whose rows lie in the default partition already (it was missing when they came) is left out with a warning:
-- the rows stay booked where they are, and the audit names them.
CREATE FUNCTION ensure_month(day date) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = sundial AS $$
DECLARE
    first  date := date_trunc('month', day)::date;
    low    uuid := uuid7_floor(first::timestamp AT TIME ZONE 'UTC');
    high   uuid := uuid7_floor((first + interval '1 month') AT TIME ZONE 'UTC');
    book   text;
    id     text;
    part   text;
    strays boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('sundial.ensure_month'));
    FOREACH book IN ARRAY ARRAY['transfers', 'usage_events', 'draws'] LOOP
        part := format('%s_%s', book, to_char(first, 'YYYY_MM'));
        CONTINUE WHEN to_regclass(part) IS NOT NULL;
        id := CASE book WHEN 'usage_events' THEN 'event_id' ELSE 'transfer_id' END;
        EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE %I >= %L AND %I < %L)', book || '_default', id, low, id, high)
           INTO strays;
        IF strays THEN
            RAISE WARNING 'no partition %: rows of that month lie in %_default', part, book;
            CONTINUE;
        END IF;
        EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', part, book, low, high);
        EXECUTE format('CREATE TRIGGER keep_all BEFORE TRUNCATE ON %I EXECUTE FUNCTION refuse_change()', part);
    END LOOP;
END $$;

DO $$
DECLARE
    book text;
BEGIN
    FOREACH book IN ARRAY ARRAY['transfers', 'usage_events', 'draws', 'grants', 'orders', 'order_outcomes',
                                'prices', 'price_versions', 'rate_cards'] LOOP
        EXECUTE format('CREATE TRIGGER keep BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', book);
        EXECUTE format('CREATE TRIGGER keep_all BEFORE TRUNCATE ON %I EXECUTE FUNCTION refuse_change()', book);
    END LOOP;
    FOREACH book IN ARRAY ARRAY['transfers_default', 'usage_events_default', 'draws_default'] LOOP
        EXECUTE format('CREATE TRIGGER keep_all BEFORE TRUNCATE ON %I EXECUTE FUNCTION refuse_change()', book);
    END LOOP;
END $$;

SELECT ensure_month((now() + make_interval(months => n))::date) FROM generate_series(-1, 2) AS n;

-- Roles --------------------------------------------------------------------------------------------------------------
-- Group roles without login: the operator grants them to the users that the programs log in as.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['sundial_meter', 'sundial_console', 'sundial_reader'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;   -- roles are the cluster's, not this database's
        END;
    END LOOP;
END $$;

REVOKE ALL ON FUNCTION ensure_month(date) FROM PUBLIC;
GRANT USAGE ON SCHEMA sundial TO sundial_meter, sundial_console, sundial_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA sundial TO sundial_meter, sundial_console, sundial_reader;

GRANT EXECUTE ON FUNCTION ensure_month(date) TO sundial_meter;
GRANT INSERT ON accounts, directories, balances, transfers, usage_events, grants, grant_balances, draws, order_outcomes,
    dead_letters, stream_positions, projection_queue, price_versions, prices, rate_cards, plans TO sundial_meter;
GRANT UPDATE (balance_mc, seq, recorded_at) ON balances TO sundial_meter;
GRANT UPDATE (remaining_mc) ON grant_balances TO sundial_meter;
GRANT UPDATE (plan, revision, email, name, role, updated_at) ON accounts TO sundial_meter;
GRANT UPDATE ON stream_positions TO sundial_meter;
GRANT DELETE ON order_queue, projection_queue TO sundial_meter;

-- SELECT … FOR UPDATE needs the right to update one column: rows of accounts are locked by their balances row alone.
GRANT INSERT ON orders, order_queue, projection_queue, accounts, balances, directories, api_keys, plans, rate_cards,
    price_versions, prices TO sundial_console;
GRANT UPDATE (plan, status, mode, floor_mc, email, name, role, revision, updated_at) ON accounts TO sundial_console;
GRANT UPDATE (plan, status, revoked_at) ON api_keys TO sundial_console;
GRANT UPDATE (card, allowance_mc, models, updated_at) ON plans TO sundial_console;
