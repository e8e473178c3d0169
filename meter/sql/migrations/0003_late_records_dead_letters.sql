-- The true record of a call that had been booked as lost, and what people decide about dead letters.
--
-- Books (append-only): event_corrections, dead_letters, dead_letter_orders, dead_letter_outcomes.
-- Queues: dead_letter_queue. event_corrections is written under the account's `balances` row lock.

SET LOCAL search_path = sundial;

-- Late records -------------------------------------------------------------------------------------------------------

CREATE TABLE event_corrections (                -- one at most per event: the record that its gateway wrote after all
    account_id         uuid NOT NULL,
    event_id           uuid NOT NULL,           -- of a usage event whose outcome is `lost`
    transfer_id        uuid NOT NULL,           -- moves -(charge_mc - what the event had come to); its link_id is the event
    model_answered     text NOT NULL DEFAULT '',
    priced_as          text NOT NULL DEFAULT '',
    price_version      integer NOT NULL,
    card               text NOT NULL,
    service_tier       text NOT NULL DEFAULT '',
    tokens_in          bigint NOT NULL CHECK (tokens_in >= 0),
    tokens_out         bigint NOT NULL CHECK (tokens_out >= 0),
    usage              jsonb NOT NULL,
    charge_mc          bigint NOT NULL CHECK (charge_mc BETWEEN 0 AND 9007199254740991),
    cost_nano          bigint NOT NULL CHECK (cost_nano >= 0),
    gateway_charge_mc  bigint NOT NULL,
    upstream_cost_nano bigint NOT NULL DEFAULT 0,
    hold_mc            bigint NOT NULL DEFAULT 0,
    evidence           text NOT NULL CHECK (evidence IN ('provider', 'recounted', 'checkpoint', 'none')),
    outcome            text NOT NULL CHECK (outcome IN ('complete', 'client_gone', 'upstream_error', 'timeout', 'drained', 'exhausted')),
    flags              text[] NOT NULL DEFAULT '{}',
    status             smallint NOT NULL,
    first_byte_us      bigint NOT NULL DEFAULT 0,
    settled_at         timestamptz NOT NULL,
    upstream_call_id   text NOT NULL DEFAULT '',
    gateway            text NOT NULL DEFAULT '',
    recorded_at        timestamptz NOT NULL,
    PRIMARY KEY (account_id, event_id),
    UNIQUE (account_id, transfer_id)
);

-- A price may be missing twice: for what was booked as lost, and for the record that corrected it (`late`). The first
-- price correction, if there is one, comes before the late record, the second one after it.
ALTER TABLE price_corrections ADD COLUMN late boolean NOT NULL DEFAULT false;
ALTER TABLE price_corrections DROP CONSTRAINT price_corrections_pkey;
ALTER TABLE price_corrections ADD PRIMARY KEY (account_id, event_id, late);
ALTER TABLE unpriced_events ADD COLUMN late boolean NOT NULL DEFAULT false;   -- which of the two waits

CREATE VIEW event_records AS                    -- what was booked of each event, and the late record that took its place
    SELECT u.account_id, u.event_id, false AS late, u.priced_as, u.price_version, u.card, u.service_tier, u.usage,
           u.charge_mc, u.cost_nano, u.gateway_charge_mc, u.evidence, u.flags, e.event_id IS NOT NULL AS superseded
      FROM usage_events u
      LEFT JOIN event_corrections e ON e.account_id = u.account_id AND e.event_id = u.event_id
    UNION ALL
    SELECT account_id, event_id, true, priced_as, price_version, card, service_tier, usage,
           charge_mc, cost_nano, gateway_charge_mc, evidence, flags, false
      FROM event_corrections;

CREATE VIEW corrections AS                      -- every correction of a charge, with what it found (was_*) and left
    SELECT p.account_id, p.event_id, p.transfer_id, 'price' AS kind, p.price_version, p.priced_as,
           CASE WHEN p.late THEN e.charge_mc ELSE u.charge_mc END AS was_mc, p.charge_mc,
           CASE WHEN p.late THEN e.cost_nano ELSE u.cost_nano END AS was_nano, p.cost_nano
      FROM price_corrections p
      JOIN usage_events u ON u.account_id = p.account_id AND u.event_id = p.event_id
      LEFT JOIN event_corrections e ON e.account_id = p.account_id AND e.event_id = p.event_id
    UNION ALL
    SELECT e.account_id, e.event_id, e.transfer_id, 'record', e.price_version, e.priced_as,
           coalesce(p.charge_mc, u.charge_mc), e.charge_mc, coalesce(p.cost_nano, u.cost_nano), e.cost_nano
      FROM event_corrections e
      JOIN usage_events u ON u.account_id = e.account_id AND u.event_id = e.event_id
      LEFT JOIN price_corrections p ON p.account_id = e.account_id AND p.event_id = e.event_id AND NOT p.late;

CREATE VIEW standing_events AS                  -- each event as it stands: by its late record and its price correction
    SELECT u.account_id, u.event_id, u.key_id, u.family, u.model_asked, u.stream, u.started_at, u.conversation, u.message,
           u.purpose, e.event_id IS NOT NULL AS late,
           coalesce(e.model_answered, u.model_answered) AS model_answered,
           coalesce(e.usage, u.usage) AS usage,
           coalesce(e.tokens_in, u.tokens_in) AS tokens_in,
           coalesce(e.tokens_out, u.tokens_out) AS tokens_out,
           coalesce(e.evidence, u.evidence) AS evidence,
           coalesce(e.outcome, u.outcome) AS outcome,
           coalesce(e.flags, u.flags) AS flags,
           coalesce(e.upstream_cost_nano, u.upstream_cost_nano) AS upstream_cost_nano,
           coalesce(e.settled_at, u.settled_at) AS settled_at,
           coalesce(p.price_version, e.price_version, u.price_version) AS price_version,
           coalesce(p.priced_as, e.priced_as, u.priced_as) AS priced_as,
           coalesce(p.charge_mc, e.charge_mc, u.charge_mc) AS charge_mc,
           coalesce(p.cost_nano, e.cost_nano, u.cost_nano) AS cost_nano
      FROM usage_events u
      LEFT JOIN event_corrections e ON e.account_id = u.account_id AND e.event_id = u.event_id
      LEFT JOIN price_corrections p ON p.account_id = u.account_id AND p.event_id = u.event_id
                                   AND p.late = (e.event_id IS NOT NULL);

-- Dead letters -------------------------------------------------------------------------------------------------------
-- A letter is known by what it says, not by its place on the stream: a journal that repeats it makes no second one.

DELETE FROM dead_letters d
 USING dead_letters o
 WHERE o.shard = d.shard AND o.payload = d.payload
   AND (o.recorded_at, o.entry_id) < (d.recorded_at, d.entry_id);
ALTER TABLE dead_letters ADD COLUMN letter_id uuid NOT NULL GENERATED ALWAYS AS
    (encode(substring(sha256(int2send(shard) || payload) FROM 1 FOR 16), 'hex')::uuid) STORED;
ALTER TABLE dead_letters ADD COLUMN lost boolean NOT NULL DEFAULT false;      -- whether it says what was lost
ALTER TABLE dead_letters DROP CONSTRAINT dead_letters_pkey;
ALTER TABLE dead_letters ADD PRIMARY KEY (letter_id);
CREATE INDEX dead_letters_event ON dead_letters (event_id) WHERE event_id IS NOT NULL;

CREATE TABLE dead_letter_orders (               -- what a person asks for; only the meter does it
    order_id   uuid PRIMARY KEY,                -- UUIDv7
    letter_id  uuid NOT NULL REFERENCES dead_letters,
    action     text NOT NULL CHECK (action IN ('requeue', 'discard')),
    memo       text NOT NULL DEFAULT '' CHECK (length(memo) <= 500),
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (action <> 'discard' OR memo <> '')
);

CREATE TABLE dead_letter_outcomes (
    order_id    uuid PRIMARY KEY REFERENCES dead_letter_orders,
    letter_id   uuid NOT NULL REFERENCES dead_letters,
    outcome     text NOT NULL CHECK (outcome IN ('booked', 'kept', 'discarded', 'refused')),
    detail      text NOT NULL DEFAULT '',       -- kept: why it cannot be booked
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX dead_letter_outcomes_letter ON dead_letter_outcomes (letter_id, order_id);
CREATE UNIQUE INDEX dead_letter_outcomes_closing ON dead_letter_outcomes (letter_id)   -- a letter is closed once
    WHERE outcome IN ('booked', 'discarded');

CREATE TABLE dead_letter_queue (                -- orders that wait; they leave when Redis has been told
    order_id  uuid PRIMARY KEY REFERENCES dead_letter_orders,
    letter_id uuid NOT NULL,
    shard     smallint NOT NULL
);
CREATE INDEX dead_letter_queue_shard ON dead_letter_queue (shard, order_id);

CREATE VIEW open_dead_letters AS
    SELECT d.*
      FROM dead_letters d
     WHERE NOT EXISTS (SELECT FROM dead_letter_outcomes o
                        WHERE o.letter_id = d.letter_id AND o.outcome IN ('booked', 'discarded'));

-- Triggers and roles -------------------------------------------------------------------------------------------------

DO $$
DECLARE
    book text;
BEGIN
    FOREACH book IN ARRAY ARRAY['event_corrections', 'dead_letters', 'dead_letter_orders', 'dead_letter_outcomes'] LOOP
        EXECUTE format('CREATE TRIGGER keep BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', book);
        EXECUTE format('CREATE TRIGGER keep_all BEFORE TRUNCATE ON %I EXECUTE FUNCTION refuse_change()', book);
    END LOOP;
END $$;

GRANT SELECT ON event_corrections, event_records, corrections, standing_events, dead_letter_orders, dead_letter_outcomes,
    dead_letter_queue, open_dead_letters TO sundial_meter, sundial_console, sundial_reader;
GRANT INSERT ON event_corrections, dead_letter_outcomes TO sundial_meter;
GRANT UPDATE (shard), DELETE ON dead_letter_queue TO sundial_meter;            -- UPDATE: for SELECT … FOR UPDATE
GRANT INSERT ON dead_letter_orders, dead_letter_queue TO sundial_console;
