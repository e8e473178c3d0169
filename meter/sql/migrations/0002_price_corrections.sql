-- Charges that were booked before their price was known, and what corrected them. price_corrections is a book;
-- unpriced_events is a queue. Both are written under the account's `balances` row lock.

SET LOCAL search_path = sundial;

CREATE TABLE price_corrections (                -- one at most per event: the price that it had to wait for
    account_id    uuid NOT NULL,
    event_id      uuid NOT NULL,
    transfer_id   uuid NOT NULL,                -- moves -(charge_mc - the event's own); its link_id is the event
    price_version integer NOT NULL REFERENCES price_versions,
    priced_as     text NOT NULL,
    charge_mc     bigint NOT NULL CHECK (charge_mc BETWEEN 0 AND 9007199254740991),
    cost_nano     bigint NOT NULL CHECK (cost_nano BETWEEN 0 AND 9007199254740991),
    recorded_at   timestamptz NOT NULL,
    PRIMARY KEY (account_id, event_id),
    UNIQUE (account_id, transfer_id)
);

CREATE TABLE unpriced_events (                  -- events that wait for a price
    account_id    uuid NOT NULL,
    event_id      uuid NOT NULL,
    shard         smallint NOT NULL CHECK (shard BETWEEN 0 AND 15),
    tried_version integer NOT NULL DEFAULT 0,   -- the newest price version that had none for it
    PRIMARY KEY (account_id, event_id)
);
CREATE INDEX unpriced_events_due ON unpriced_events (shard, tried_version, event_id);

INSERT INTO unpriced_events (account_id, event_id, shard)
SELECT u.account_id, u.event_id, a.shard
  FROM usage_events u
  JOIN accounts a ON a.account_id = u.account_id
 WHERE 'unpriced' = ANY (u.flags) AND u.evidence <> 'none';

CREATE TRIGGER keep BEFORE UPDATE OR DELETE ON price_corrections FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER keep_all BEFORE TRUNCATE ON price_corrections EXECUTE FUNCTION refuse_change();

GRANT SELECT ON price_corrections, unpriced_events TO sundial_meter, sundial_console, sundial_reader;
GRANT INSERT ON price_corrections, unpriced_events TO sundial_meter;
GRANT UPDATE (tried_version), DELETE ON unpriced_events TO sundial_meter;
