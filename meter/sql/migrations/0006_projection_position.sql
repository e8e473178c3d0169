-- How often announcements were passed on to Redis, which keeps the same count: one that is behind Redis's is that of an
-- older copy of the books (meter/marks.py).

SET LOCAL search_path = sundial;

CREATE TABLE projection_position (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    rounds   bigint NOT NULL DEFAULT 0
);
INSERT INTO projection_position DEFAULT VALUES;

GRANT SELECT ON projection_position TO sundial_meter, sundial_console, sundial_reader;
GRANT UPDATE (rounds) ON projection_position TO sundial_meter;
