"""Who is calling: keys, header texts in the three ways they arrive, and every way to be nobody."""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.identity import Caller, check_body_user, decode, find_key, identify, label
from gateway.refusals import Refusal
from shared import ids
from shared.events import LABEL_LENGTH_MAX
from shared.projection import KeyRecord
from tests.harness.calls import key, refused
from tests.harness.messages import DIRECTORY

OWN_ACCOUNT = ids.account_id(DIRECTORY, "speech")
SECRET = "sk-sundial-test"
NOW_S = 1_800_000_000


def book(record: KeyRecord) -> dict[bytes, KeyRecord]:
    return {hashlib.sha256(SECRET.encode()).digest(): record}


def caller(record: KeyRecord | None = None, **headers: str) -> Caller:
    """The caller with headers given by the last part of their names: user_id, user_name …"""
    named = CIMultiDict({f"X-Sundial-{name.replace('_', '-')}": value for name, value in headers.items()})
    return identify(record or key(), named)


def as_aiohttp(data: bytes) -> str:
    """Header bytes as aiohttp hands them over."""
    return data.decode("utf-8", "surrogateescape")


def b64(text: str) -> str:
    return "b64:" + base64.b64encode(text.encode()).decode()


def refusal(record: KeyRecord | None = None, **headers: str) -> str:
    with pytest.raises(Refusal) as caught:
        caller(record, **headers)
    return caught.value.code


# Keys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
def test_a_known_key_is_found_whatever_the_case_of_its_scheme(scheme: str) -> None:
    """The scheme's name is case-insensitive (RFC 9110), and spaces around the secret are none of it."""
    record = key()
    assert find_key(f"{scheme} {SECRET} ", book(record), NOW_S) is record


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Bearer    ", f"Basic {SECRET}", SECRET])
def test_without_a_bearer_secret_there_is_no_key(authorization: str | None) -> None:
    """A missing header, another scheme and an empty secret are `missing_api_key`."""
    with refused("missing_api_key"):
        find_key(authorization, book(key()), NOW_S)


@pytest.mark.parametrize(
    "secret", [SECRET + "x", SECRET[:-1], SECRET.upper(), "é", as_aiohttp(b"\xe9"), "\ud800", "a\x00b"]
)
def test_a_secret_that_is_not_in_the_book_is_invalid(secret: str) -> None:
    """Nothing but the exact secret finds the key, and no text that can arrive breaks the look-up."""
    with refused("invalid_api_key"):
        find_key(f"Bearer {secret}", book(key()), NOW_S)


def test_a_revoked_key_is_invalid() -> None:
    """A revoked key is refused as an unknown one is."""
    with refused("invalid_api_key"):
        find_key(f"Bearer {SECRET}", book(key(status="revoked")), NOW_S)


@pytest.mark.parametrize(("expires_at", "valid"), [(0, True), (NOW_S + 1, True), (NOW_S, False), (1, False)])
def test_a_key_is_valid_until_the_second_in_which_it_expires(expires_at: int, valid: bool) -> None:
    """`expires_at` is the first second in which the key is refused; 0 means never."""
    if valid:
        find_key(f"Bearer {SECRET}", book(key(expires_at=expires_at)), NOW_S)
    else:
        with refused("invalid_api_key"):
            find_key(f"Bearer {SECRET}", book(key(expires_at=expires_at)), NOW_S)


# Service keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        as_aiohttp("José".encode("latin-1")),
        as_aiohttp("José".encode()),
        "Jos\udce9",
        "José",
        b64("José"),
        " José ",
    ],
)
def test_one_name_is_one_account_in_whatever_bytes_it_arrives(raw: str) -> None:
    """Latin-1 bytes, UTF-8 bytes, text and `b64:` name the same user."""
    found = caller(user_id=raw)
    assert found.external_id == "José"
    assert found.account_id == ids.account_id(DIRECTORY, "José")
    assert found.shard == ids.shard_of(found.account_id)


def test_a_name_beyond_latin_1_arrives_as_base64() -> None:
    """LibreChat writes what no header may hold as `b64:` and UTF-8: it is decoded for ids and labels alike."""
    found = caller(user_id=b64("Zoë 🌻"), user_name=b64("Zoë 🌻"), user_email="zoe@example.com")
    assert found.external_id == "Zoë 🌻"
    assert found.labels.name == "Zoë 🌻"
    assert found.labels.email == "zoe@example.com"


@pytest.mark.parametrize("raw", ["b64:%%%", "b64:w6", "b64:/w==", "b64:é", "b64:Jos\udce9"])
def test_broken_base64_is_taken_as_the_text_that_came(raw: str) -> None:
    """What is no base64 of UTF-8 (a wrong alphabet, wrong padding, wrong bytes) is an ordinary text, made encodable."""
    assert decode(raw) == raw.encode("utf-8", "replace").decode()


@pytest.mark.parametrize("raw", ["", " ", "\t", "b64:", b64("  ")])
def test_an_empty_id_is_refused_even_where_the_key_has_an_account(raw: str) -> None:
    """Somebody tried to name a user and failed: that call must not land on the key's own account."""
    assert refusal(user_id=raw) == "missing_user"
    assert refusal(key(account_id=OWN_ACCOUNT), user_id=raw) == "missing_user"


@pytest.mark.parametrize("raw", ["{{LIBRECHAT_USER_ID}}", "u-{{LIBRECHAT_USER_ID}}", "{{", "x}}", b64("{{X}}")])
def test_an_unresolved_placeholder_is_refused(raw: str) -> None:
    """A literal `{{…}}` would put all users on one account."""
    assert refusal(user_id=raw) == "unresolved_user"
    assert refusal(key(account_id=OWN_ACCOUNT), user_id=raw) == "unresolved_user"


@pytest.mark.parametrize("raw", ["a\x00b", "a\nb", "a\x1bb", b64("a\x00b"), b64("a\r\nb"), b64("a\u202eb"), "x" * 129])
def test_an_id_with_control_characters_or_too_long_is_invalid(raw: str) -> None:
    """Ids become rows, log lines and pages: only visible characters, at most 128 of them."""
    assert refusal(user_id=raw) == "invalid_user"


def test_the_longest_id_is_taken_whole() -> None:
    """128 characters pass unchanged."""
    assert caller(user_id="x" * ids.EXTERNAL_ID_LENGTH_MAX).external_id == "x" * 128


def test_a_service_key_without_a_user_is_on_its_own_account() -> None:
    """Images, speech and embeddings carry no user: such a call is on the key's account, with no user's id."""
    found = caller(key(account_id=OWN_ACCOUNT))
    assert (found.account_id, found.external_id) == (OWN_ACCOUNT, "")


def test_a_service_key_without_user_and_account_is_refused() -> None:
    """A service key that has no account of its own must be told the user."""
    assert refusal() == "missing_user"


def test_a_service_key_with_an_account_may_name_users_too() -> None:
    """The user named wins over the key's own account."""
    assert caller(key(account_id=OWN_ACCOUNT), user_id="ana").account_id == ids.account_id(DIRECTORY, "ana")


def test_the_same_user_has_another_account_in_another_directory() -> None:
    """An id is unique within one directory only."""
    other = key(directory_id=ids.directory_id("other"))
    assert caller(other, user_id="ana").account_id != caller(user_id="ana").account_id


# Personal keys ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", ["somebody-else", "", "{{LIBRECHAT_USER_ID}}", "a\x00b"])
def test_a_personal_key_ignores_who_its_headers_say_it_is(raw: str) -> None:
    """Whoever holds a personal key pays for it: identity headers change nothing, not even when they are wrong."""
    personal = key(kind="personal", account_id=OWN_ACCOUNT)
    found = caller(personal, user_id=raw, user_email="x@y", user_name="X", user_role="admin", purpose="title")
    assert (found.account_id, found.external_id) == (OWN_ACCOUNT, "")
    assert (found.labels.email, found.labels.name, found.labels.role) == ("", "", "")
    assert found.labels.purpose == "title"


# The body's user --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["ana", None])
def test_the_bodys_user_may_be_the_same_or_absent(user: object) -> None:
    """LibreChat repeats the id in the body; other clients do not."""
    check_body_user(caller(user_id="ana"), user)


@pytest.mark.parametrize("user", ["bob", "", "Ana", " ana", 0, False, ["ana"], {"id": "ana"}])
def test_another_user_in_the_body_is_refused(user: object) -> None:
    """Header and body must name the same user, to the letter."""
    with refused("user_mismatch"):
        check_body_user(caller(user_id="ana"), user)


def test_a_name_decoded_from_base64_is_compared_as_text() -> None:
    """Header `b64:` and body in plain JSON are the same user."""
    check_body_user(caller(user_id=b64("Zoë 🌻")), "Zoë 🌻")


def test_where_no_user_is_named_the_bodys_user_is_not_looked_at() -> None:
    """Personal keys, and service keys on their own account, may send any `user`, as OpenAI's clients do."""
    check_body_user(caller(key(kind="personal", account_id=OWN_ACCOUNT)), "whoever")
    check_body_user(caller(key(account_id=OWN_ACCOUNT)), "whoever")


# Labels and text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (None, ""),
        ("", ""),
        ("{{LIBRECHAT_BODY_MESSAGEID}}", ""),
        ("a\x00b\x1b[31mc", "ab[31mc"),
        ("line\nbreak\ttab", "line break tab"),
        (as_aiohttp("José\u00a0Silva".encode()), "José Silva"),
        (b64("أنس"), "أنس"),
        (" padded ", "padded"),
        ("x" * 300, "x" * LABEL_LENGTH_MAX),
    ],
)
def test_a_label_is_what_a_person_can_read(raw: str | None, shown: str) -> None:
    """Labels lose control characters and unresolved placeholders, and are cut; they never refuse a call."""
    assert label(raw) == shown


_SURROGATES = st.characters(categories=["Cs"])
_RAW = st.one_of(
    st.binary(max_size=60).map(as_aiohttp),
    st.text(max_size=60),
    st.text(_SURROGATES | st.characters(), max_size=30),
    st.binary(max_size=60).map(lambda data: "b64:" + base64.b64encode(data).decode()),
    st.text(max_size=30).map(lambda text: f"b64:{text}"),
)


@given(_RAW)
def test_every_text_that_leaves_this_module_can_be_stored(raw: str) -> None:
    """Whatever arrives, ids and labels are valid UTF-8 within their limits and without control characters or NUL."""
    decode(raw).encode()
    shown = label(raw)
    shown.encode()
    assert shown.isprintable()
    assert len(shown) <= LABEL_LENGTH_MAX
    try:
        found = caller(user_id=raw)
    except Refusal:
        return
    found.external_id.encode()
    assert found.external_id.isprintable()
    assert 0 < len(found.external_id) <= ids.EXTERNAL_ID_LENGTH_MAX


@given(st.text(min_size=1))
def test_base64_and_utf_8_bytes_are_decoded_to_the_same_text(text: str) -> None:
    """Any text comes back as it was meant, both ways."""
    assert decode(b64(text)) == text
    if not text.startswith("b64:"):
        assert decode(as_aiohttp(text.encode())) == text
