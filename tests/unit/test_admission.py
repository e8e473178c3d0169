"""From a request's body to a call: what is refused, and bodies that go on as they came."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import asks
from gateway.admission import admit, parse, permit, with_cap, with_usage
from gateway.asks import Ask
from gateway.asks.ask import CHOICES_MAX, MODEL_LENGTH_MAX, TOKENS_ASKED_MAX
from gateway.asks.steering import steers
from gateway.bounds import (
    Rates,
)
from gateway.refusals import Refusal
from shared.pricing import PricedModel
from shared.projection import Plan
from tests.harness.calls import (
    CATALOG,
    CHAT,
    MINI,
    PLAN,
    THINKER,
    TOKENS,
    ask,
    caller,
    event_of,
    rates,
    refused,
)

INCLUDE = b'"stream_options":{"include_usage":true},'


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "gpt-mini", "messages": []} | fields).encode()


def read(request: dict[str, Any]) -> Ask:
    return asks.read(CHAT, request)


def usage_added(data: bytes) -> bytes:
    request = parse(data)
    return with_usage(read(request), request, data)


# Parsing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'"model"',
        b"{",
        b'{"model":"m"}x',
        b'{"model":"m","seed":NaN}',
        b'{"model":"m","seed":-Infinity}',
        b'{"model":"m","seed":1e400}',
        b'{"model":"m","user":"\\ud800"}',
        b'{"model":"m","user":"\\udce9\\ud800"}',
        b'{"model":"m","user":"\xff"}',
        b'{"model":"m","user":"a\x00b"}',
        b'\xef\xbb\xbf{"model":"m"}',
        '{"model":"m"}'.encode("utf-16"),
        b'{"model":"m",}',
        b"{'model':'m'}",
        b'{"model":"m","seed":' + b"1" * 5_000 + b"}",
        b"[" * 100_000,
        b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model":' * 100_000,
    ],
    ids=lambda data: repr(data[:32]),
)
def test_what_is_no_json_object_in_utf_8_is_refused(data: bytes) -> None:
    """Broken, foreign and bottomless bodies are `invalid_json`, at once, and nothing else happens."""
    with refused("invalid_json"):
        parse(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"model":"gpt-mini","model":"o-thinker"}',
        b'{"model":"gpt-mini","mod\\u0065l":"o-thinker"}',
        b'{"\\u006dodel":"gpt-mini","mode\\u006C":"o-thinker"}',
        b'{"model":"a","x":{"model":"b","model":"c"}}',
    ],
)
def test_a_model_that_stands_twice_is_refused(data: bytes) -> None:
    """Two parsers may take two different ones: priced as one, run as the other. Escapes do not hide it."""
    with refused("invalid_field"):
        parse(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"model":"m","messages":[{"content":"\\"model\\": \\"model\\""}]}',
        b'{"model":"m","metadata":{"model":"n"},"tools":[{"model":"o"}]}',
        b'{"model":"m","messages":[{"content":"caf\\u00e9 \\u0065"}]}',
    ],
)
def test_the_word_model_elsewhere_is_no_second_model(data: bytes) -> None:
    """Texts, nested objects and ordinary escapes that look like it are let through."""
    assert parse(data)["model"] == "m"


def test_a_parser_that_gives_up_is_a_refusal() -> None:
    """Bodies nested about as deep as either parser goes: read or refused, never a fault of ours."""
    read_whole = []
    for depth in range(800, 1_010):
        try:
            parse(b'{"model":"m","\\u006d":' + b"[" * depth + b"]" * depth + b"}")
            read_whole.append(depth)
        except Refusal as refusal:
            assert refusal.code == "invalid_json"  # noqa: PT017 (both ends are right)
    assert read_whole == list(range(800, 800 + len(read_whole)))
    assert 0 < len(read_whole) < 210


# Fields -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("model", [None, 1, "", "  ", ["m"], "x" * (MODEL_LENGTH_MAX + 1), "a\x00b", "a\nb", "gpt\u202emini"]),
        ("stream", [1, 0, "true", [], {}]),
        ("stream_options", [1, "x", [], True]),
        ("n", [0, -1, 1.5, 2.0, "1", True, CHOICES_MAX + 1, 10**30]),
        ("max_tokens", [0, -1, 1.5, 1e30, "5", False, TOKENS_ASKED_MAX + 1]),
        ("max_completion_tokens", [0, -1, [], {}]),
    ],
)
def test_a_field_of_a_wrong_type_is_named(field: str, values: list[Any]) -> None:
    """The refusal says which field it is about."""
    for value in values:
        with pytest.raises(Refusal) as caught:
            read({"model": "m"} | {field: value})
        assert (caught.value.code, caught.value.facts["field"]) == ("invalid_field", field), value


def test_null_is_as_good_as_absent() -> None:
    """Clients write null for what they do not mean."""
    fields = ("stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "service_tier", "user")
    assert read({"model": "m"} | dict.fromkeys(fields)) == read({"model": "m"})


def test_the_fields_that_matter_are_read() -> None:
    """One request with all of them."""
    request = {
        "model": "gpt-mini",
        "stream": True,
        "stream_options": {"include_usage": True},
        "n": 3,
        "max_tokens": 70,
        "max_completion_tokens": 60,
        "service_tier": "flex",
        "user": "ana",
    }
    assert read(request) == Ask(
        model="gpt-mini", stream=True, usage_asked=True, output_limit=60, choices=3, service_tier="flex", user="ana"
    )


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": None}, {"include_usage": 1}])
def test_usage_is_asked_for_by_true_alone(options: Any) -> None:
    """Anything else means that the usage chunk is ours, and is taken out again."""
    assert not read({"model": "m", "stream": True, "stream_options": options}).usage_asked


# Asking for usage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b'{"model":"m","stream":true}',
        b' \r\n\t{ "model" :\t"m",\n "stream":true , "temperature": 1.0, "top_p":1.00 }\n',
        b'{"stream":true,"model":"m","seed":123456789012345678901234567890,"x":-12345678901234567890}',
        '{"stream":true,"model":"m","user":"Zoë 🌻","x":"\\u00e9\\/\\ud83c\\udf3b"}'.encode(),
        b'{"stream":true,"model":"m","a":1E2,"b":-0,"c":1e-7,"d":0.1000,"e":18446744073709551616}',
        b'{"stream":true,"model":"m","x":1,"x":2}',
    ],
)
def test_the_field_is_put_in_front_and_no_other_byte_changes(data: bytes) -> None:
    """White space, spelling of numbers and texts, order and doubles of the client's stay as they are."""
    added = usage_added(data)
    assert added.count(INCLUDE) == 1
    assert added.replace(INCLUDE, b"") == data
    assert json.loads(added) == json.loads(data) | {"stream_options": {"include_usage": True}}


@pytest.mark.parametrize(
    ("options", "merged"),
    [
        (b"null", b'{"include_usage":true}'),
        (b"{}", b'{"include_usage":true}'),
        (b'{"include_usage": false}', b'{"include_usage":true}'),
        (b'{"include_obfuscation": false}', b'{"include_obfuscation":false,"include_usage":true}'),
        (b'{"include_usage":0,"x":1.0}', b'{"include_usage":true,"x":1.0}'),
    ],
)
def test_options_that_are_there_are_kept(options: bytes, merged: bytes) -> None:
    """`include_usage` is added to the client's stream options; other values keep even their spelling."""
    data = b'{"model":"m", "stream":true, "stream_options":%b, "temperature":1.00, "seed":123456789012345678901}'
    expected = b'{"model":"m","stream":true,"stream_options":%b,"temperature":1.00,"seed":123456789012345678901}'
    assert usage_added(data % options).replace(b": false", b":false") == expected % merged


@pytest.mark.parametrize(
    "data",
    [
        b'{"model":"m"}',
        b'{"model":"m","stream":false}',
        b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}',
        b'{"model":"m","stream":false,"stream_options":{"include_usage":false}}',
    ],
)
def test_where_nothing_need_be_asked_the_body_is_the_clients(data: bytes) -> None:
    """No stream, or usage asked for already: the very same bytes."""
    assert usage_added(data) is data


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.dictionaries(st.text(max_size=8), _JSON, max_size=5),
    st.booleans(),
    st.none() | st.dictionaries(st.text(max_size=8), _JSON, max_size=3),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")]),
)
def test_a_rewritten_body_means_the_same(
    fields: dict[str, Any], given_options: bool, options: dict[str, Any] | None, separators: tuple[str, str]
) -> None:
    """Whatever else stands in a request, asking for usage and a cap changes those two fields and no other."""
    request = fields | {"model": "m", "stream": True, "max_tokens": 100}
    for name in list(request):
        if name in ("n", "max_completion_tokens", "service_tier", "stream_options") or steers(name):
            del request[name]
    if given_options:
        request["stream_options"] = options
    data = json.dumps(request, separators=separators).encode()
    asked = usage_added(data)
    assert json.loads(asked) == request | {
        "stream_options": {**(options or {} if given_options else {}), "include_usage": True}
    }
    assert json.loads(with_cap(rates(), asked, 7)) == json.loads(asked) | {"max_tokens": 7}


# Capping the answer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "given_limits", "expected"),
    [
        (MINI, {}, {"max_tokens": 50}),
        (THINKER, {}, {"max_completion_tokens": 50}),
        (MINI, {"max_tokens": None}, {"max_tokens": 50}),
        (THINKER, {"max_tokens": None}, {"max_tokens": None, "max_completion_tokens": 50}),
        (MINI, {"max_tokens": 900}, {"max_tokens": 50}),
        (THINKER, {"max_tokens": 900}, {"max_tokens": 50}),
        (MINI, {"max_completion_tokens": 900}, {"max_completion_tokens": 50}),
        (MINI, {"max_completion_tokens": None, "max_tokens": 900}, {"max_completion_tokens": None, "max_tokens": 50}),
        (MINI, {"max_completion_tokens": 900, "max_tokens": 900}, {"max_completion_tokens": 50, "max_tokens": 50}),
        (MINI, {"max_completion_tokens": 900, "max_tokens": 20}, {"max_completion_tokens": 50, "max_tokens": 20}),
    ],
)
def test_a_cap_takes_the_name_that_the_client_used(
    model: PricedModel, given_limits: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Else the one that the model knows; null counts as absent; a lower limit of the client's stays."""
    data = body(temperature=1.0, **given_limits)
    capped = json.loads(with_cap(rates(model), data, 50))
    assert capped == {"model": "gpt-mini", "messages": [], "temperature": 1.0} | expected


def test_a_cap_leaves_the_spelling_of_all_other_values() -> None:
    """Numbers too large for 64 bits and floats keep their digits, in front of a body and within it."""
    inner = b'"model":"m","temperature":1.0,"seed":123456789012345678901234567890,"x":"\\u00e9"'
    assert with_cap(rates(), b" {" + inner + b"}", 9) == b' {"max_tokens":9,' + inner + b"}"
    assert with_cap(rates(), b"{" + inner + b',"max_tokens":99}', 9) == b"{" + inner + b',"max_tokens":9}'


# Permission -------------------------------------------------------------------------------------------------------


def plan(*models: str) -> Plan:
    return msgspec.structs.replace(PLAN, models=models)


@pytest.mark.parametrize("patterns", [(), ("*",), ("gpt-*",), ("o-*", "gpt-mini"), ("gpt-m?ni",)])
def test_a_plan_without_patterns_or_with_one_that_fits_permits(patterns: tuple[str, ...]) -> None:
    """The rates of what is asked, at the plan's card."""
    found = permit(ask(), plan(*patterns), CATALOG)
    assert found == Rates(CATALOG.price_version, MINI, "default", TOKENS)


@pytest.mark.parametrize("patterns", [("o-*",), ("GPT-MINI",), ("mini",), ("",)])
def test_a_model_that_no_pattern_names_is_refused(patterns: tuple[str, ...]) -> None:
    """Patterns match the whole name, in its case."""
    with refused("model_not_allowed"):
        permit(ask(), plan(*patterns), CATALOG)


@pytest.mark.parametrize("model", ["gpt-7", "", "gpt-mini ", "GPT-mini", "x" * 300])
def test_a_model_without_a_price_is_refused(model: str) -> None:
    """Never free by accident."""
    with refused("model_not_priced"):
        permit(ask(model=model), plan(), CATALOG)


def test_the_permission_is_asked_before_the_price() -> None:
    """A model that is neither permitted nor priced says nothing of prices."""
    with refused("model_not_allowed"):
        permit(ask(model="gpt-7"), plan("gpt-mini"), CATALOG)


# The whole of it --------------------------------------------------------------------------------------------------


def test_an_admitted_call_keeps_both_bodies() -> None:
    """What came is kept for counting, what goes upstream asks for usage, and the usage chunk will be taken out."""
    data = body(stream=True, user="ana")
    call = admit(event_of(1), caller("ana"), CHAT, data, PLAN, CATALOG, 1, 0.0)
    assert call.request is data
    assert json.loads(call.body) == json.loads(data) | {"stream_options": {"include_usage": True}}
    assert call.strip_usage
    assert call.rates.model is MINI
    assert call.input_tokens > 0


def test_a_usage_chunk_that_the_client_asked_for_stays() -> None:
    """Nothing is taken out of a stream whose client wants its usage."""
    data = body(stream=True, stream_options={"include_usage": True})
    call = admit(event_of(1), caller("ana"), CHAT, data, PLAN, CATALOG, 1, 0.0)
    assert not call.strip_usage
    assert call.body is data


def test_a_body_of_another_user_is_not_admitted() -> None:
    """Header and body name two users: refused before anything is priced."""
    with refused("user_mismatch"):
        admit(event_of(1), caller("ana"), CHAT, body(user="bob", model="gpt-7"), PLAN, CATALOG, 1, 0.0)
