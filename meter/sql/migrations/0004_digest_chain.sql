-- A chain of digests per account (meter/digests.py says over which bytes), and signed checkpoints of where each stands.
--
-- Book (append-only): checkpoints. Transfers of before have no digest: the chain of an account begins with the first
-- transfer after this migration, and no transfer after that one may be without. Meters of an earlier release are to be
-- stopped before it runs: what they wrote afterwards would be a hole in the chains, and the audit says so.

SET LOCAL search_path = sundial;

ALTER TABLE transfers ADD COLUMN digest bytea CHECK (length(digest) = 32);
ALTER TABLE balances ADD COLUMN digest bytea CHECK (length(digest) = 32);     -- of the last transfer
GRANT UPDATE (digest) ON balances TO sundial_meter;

CREATE TABLE checkpoints (
    checkpoint_id uuid PRIMARY KEY,             -- UUIDv7
    signature     bytea NOT NULL CHECK (length(signature) = 64),      -- Ed25519 over `statement`, as its bytes are
    public_key    bytea NOT NULL CHECK (length(public_key) = 32),
    statement     bytea NOT NULL,               -- JSON: meter/checkpoints.py
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX checkpoints_created ON checkpoints (created_at);
CREATE TRIGGER keep BEFORE UPDATE OR DELETE ON checkpoints FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER keep_all BEFORE TRUNCATE ON checkpoints EXECUTE FUNCTION refuse_change();
GRANT SELECT ON checkpoints TO sundial_meter, sundial_console, sundial_reader;
GRANT INSERT ON checkpoints TO sundial_meter;
