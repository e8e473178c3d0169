-- How often a key was changed: Redis keeps the same count, by which an older record never replaces a newer one. A trigger
-- raises it, whoever changes the key: the command of an earlier release too.

SET LOCAL search_path = sundial;

ALTER TABLE api_keys ADD COLUMN revision bigint NOT NULL DEFAULT 0;

CREATE FUNCTION raise_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.revision := OLD.revision + 1;
    RETURN NEW;
END $$;

CREATE TRIGGER revise BEFORE UPDATE ON api_keys FOR EACH ROW EXECUTE FUNCTION raise_revision();
