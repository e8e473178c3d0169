"""Migrations go forward only: what has run is known by its checksum, and history is never rewritten."""

from pathlib import Path

import pytest

from meter.migrate import Migration, MigrationError, pending, read

ONE = Migration("0001_one.sql", "SELECT 1")
TWO = Migration("0002_two.sql", "SELECT 2")
THREE = Migration("0003_three.sql", "SELECT 3")


def test_what_has_not_run_is_pending_in_order() -> None:
    """A database runs what it lacks, from where it stands."""
    assert pending({}, [ONE, TWO]) == [ONE, TWO]
    assert pending({ONE.name: ONE.sha256}, [ONE, TWO]) == [TWO]
    assert pending({ONE.name: ONE.sha256, TWO.name: TWO.sha256}, [ONE, TWO]) == []


@pytest.mark.parametrize(
    ("applied", "files", "words"),
    [
        ({ONE.name: b"edited"}, [ONE, TWO], "0001_one.sql was edited"),
        ({TWO.name: TWO.sha256}, [ONE], "does not know"),
        ({ONE.name: ONE.sha256, THREE.name: THREE.sha256}, [ONE, TWO, THREE], "0002_two.sql is older than 0003"),
    ],
)
def test_contradictions_are_clear_errors(applied: dict[str, bytes], files: list[Migration], words: str) -> None:
    """An edited, a missing and a late migration each say what is wrong and run nothing."""
    with pytest.raises(MigrationError, match=words):
        pending(applied, files)


def test_files_are_checked(tmp_path: Path) -> None:
    """A misnamed file and a number that occurs twice are errors."""
    (tmp_path / "0001_a.sql").write_text("SELECT 1")
    (tmp_path / "0001_b.sql").write_text("SELECT 1")
    with pytest.raises(MigrationError, match="two migrations have the number 0001"):
        read(tmp_path)
    (tmp_path / "0001_b.sql").rename(tmp_path / "later.sql")
    with pytest.raises(MigrationError, match=r"later\.sql is not named"):
        read(tmp_path)


def test_the_products_own_migrations_are_well_named() -> None:
    """The first one is the ledger."""
    assert read()[0].name == "0001_ledger.sql"
