"""What a gateway tells at once of an answer that ended well, and notes of it in its journal."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway import metrics, proof
from gateway.journal import Journal, read, segments
from gateway.witness import Witness
from shared import ends
from tests.harness.messages import fresh_event_id


def ended(home: Path, *, early: bool | None = False, sold: str = "text", **facts: Any) -> list[ends.End]:
    """The E records of an answer of 90 bytes, whose call cost 500 mc where 400 were held and a slice is 100."""
    said: dict[str, Any] = {
        "recorded": True,
        "charge_mc": 500,
        "mode": "enforce",
        "unheld": False,
        "same": True,
        "out": 90,
    } | facts
    call: Any = SimpleNamespace(
        event_id=(event := fresh_event_id()), event_text=str(event), family=SimpleNamespace(sold=sold)
    )
    bounds = SimpleNamespace(slice_mc=130, input_mc=30)
    hold = SimpleNamespace(call=call, bounds=bounds, held_mc=400, **{name: said[name] for name in (
        "recorded", "charge_mc", "mode", "unheld")})  # fmt: skip
    witness = Witness(may_take=False)
    witness.same = said["same"]
    relay = SimpleNamespace(bytes_in=100, bytes_ignored=10, bytes_out=said["out"], bytes_added=0, witness=witness)
    journal = Journal(home, "own")
    proof.ended(journal, cast("Any", hold), cast("Any", relay), early=early)
    journal.close()
    records = [record for path in segments(journal.folder) for record in read(path) if record]
    assert all(kind == b"E" for kind, _ in records)
    return [ends.decode(payload) for _, payload in records]


def violations() -> dict[str, float]:
    rules = (proof.CLIENT_LAST, proof.BYTES, proof.FLOOR)
    return {rule: metrics.VIOLATIONS.labels(rule)._value.get() for rule in rules}


@pytest.mark.parametrize(
    ("facts", "rule"),
    [
        ({}, ""),
        ({"early": True}, proof.CLIENT_LAST),
        ({"recorded": False}, proof.CLIENT_LAST),
        ({"same": False}, proof.BYTES),
        ({"out": 89}, proof.BYTES),
        ({"charge_mc": 501}, proof.FLOOR),
        ({"charge_mc": 501, "mode": "observe"}, ""),
        ({"charge_mc": 501, "unheld": True}, ""),
        ({"charge_mc": 501, "sold": "sound"}, ""),
    ],
)
def test_what_is_broken_is_counted(tmp_path: Path, facts: dict[str, Any], rule: str) -> None:
    """By rule, once; the record has what the audit needs to find the same."""
    before = violations()
    [end] = ended(tmp_path, **facts)
    assert {name: count - before[name] for name, count in violations().items() if count != before[name]} == (
        {rule: 1} if rule else {}
    )
    assert (end.came, end.sent, end.slice_mc) == (90, facts.get("out", 90), -1 if facts.keys() & _UNBOUND else 100)
    assert (end.early, end.same) == (facts.get("early", False), facts.get("same", True))


def test_what_was_not_booked_leaves_no_record(tmp_path: Path) -> None:
    """But its bytes are looked at all the same."""
    before = violations()
    assert ended(tmp_path, early=None, out=89) == []
    assert violations() == before | {proof.BYTES: before[proof.BYTES] + 1}


_UNBOUND = {"mode", "unheld", "sold"}
