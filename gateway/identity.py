"""Who is calling: from a key and headers to an account. Pure but for the table of keys that it is given.

Trust is the key. Only a service key may name users; a personal key is its own account and its identity headers are
ignored. Header text arrives in three ways: ASCII; Latin-1 bytes, which aiohttp hands over as surrogates; and, above
U+00FF, as LibreChat's `b64:` + base64 of UTF-8.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Final
from uuid import UUID

import msgspec
from aiohttp import hdrs
from multidict import istr

from gateway.account_names import AccountNames, names, names_of
from gateway.refusals import Refusal
from shared import ids
from shared.events import LABEL_LENGTH_MAX
from shared.projection import KeyRecord

# As multidict's own kind of text, whose lower case is made once, not with each look-up.
_USER_ID: Final = istr("X-Sundial-User-Id")
_EMAIL: Final = istr("X-Sundial-User-Email")
_NAME: Final = istr("X-Sundial-User-Name")
_ROLE: Final = istr("X-Sundial-User-Role")
_CONVERSATION: Final = istr("X-Sundial-Conversation-Id")
_MESSAGE: Final = istr("X-Sundial-Message-Id")
_PURPOSE: Final = istr("X-Sundial-Purpose")
_API_KEY: Final = istr("x-api-key")


class Labels(msgspec.Struct, frozen=True):
    """What a call says of itself: shown on statements, never trusted."""

    email: str = ""
    name: str = ""
    role: str = ""
    conversation: str = ""
    message: str = ""
    purpose: str = ""


class Caller(msgspec.Struct, frozen=True):
    """Who pays for this call."""

    key: KeyRecord
    account_id: UUID
    shard: int
    external_id: str
    """The user's id in the key's directory; empty for the account of the key itself."""
    labels: Labels
    account_text: str
    """The account's id as text: many parts of a call name it."""


def credential(headers: Mapping[str, str]) -> str | None:
    """What a client shows as its key: Authorization, else Anthropic's `x-api-key` in Authorization's form."""
    authorization = headers.get(hdrs.AUTHORIZATION)
    if authorization is None and (key := headers.get(_API_KEY)) is not None:
        return f"Bearer {key}"
    return authorization


def find_key(authorization: str | None, keys: Mapping[bytes, KeyRecord], now_s: float) -> KeyRecord:
    """The record of the key in an Authorization header. Raises Refusal `missing_api_key`, `invalid_api_key`."""
    scheme, _, secret = (authorization or "").partition(" ")
    secret = secret.strip()
    if not secret or scheme.lower() != "bearer":
        raise Refusal("missing_api_key")
    record = keys.get(hashlib.sha256(secret.encode() if secret.isascii() else _bytes(secret)).digest())
    if record is None or record.status != "active" or (record.expires_at and record.expires_at <= now_s):
        raise Refusal("invalid_api_key")
    return record


def identify(key: KeyRecord, headers: Mapping[str, str]) -> Caller:
    """The account that a call with this key and these headers is on.

    Raises Refusal `missing_user`, `unresolved_user`, `invalid_user`.
    """
    get = headers.get
    conversation, message, purpose = get(_CONVERSATION), get(_MESSAGE), get(_PURPOSE)
    if key.kind == "personal":
        # The key's own account: whoever holds the key may label the call, but not say who they are.
        assert key.account_id is not None
        account, external_id, email, name, role = names(key.account_id), "", None, None, None
    else:
        account, external_id = _named(key, get(_USER_ID))
        email, name, role = get(_EMAIL), get(_NAME), get(_ROLE)
    return Caller(
        key,
        account.account_id,
        account.shard,
        external_id,
        Labels(
            label(email) if email else "",
            label(name) if name else "",
            label(role) if role else "",
            label(conversation) if conversation else "",
            label(message) if message else "",
            label(purpose) if purpose else "",
        ),
        account.text,
    )


def _named(key: KeyRecord, raw: str | None) -> tuple[AccountNames, str]:
    """Whom a service key's call is for, and that user's id.

    Cases: a user is named; none is named and the key has an account of its own (images, speech and embeddings come
    without a user); none is named and it has none; the header is there but empty or unresolved.
    """
    if raw is None and key.account_id is not None:
        return names(key.account_id), ""
    external_id = decode(raw or "").strip()
    if not external_id:
        raise Refusal("missing_user")
    if "{{" in external_id or "}}" in external_id:
        raise Refusal("unresolved_user")
    if len(external_id) > ids.EXTERNAL_ID_LENGTH_MAX or not external_id.isprintable():
        raise Refusal("invalid_user")
    return names_of(key.directory_id, external_id), external_id


def check_body_user(caller: Caller, user: object) -> None:
    """LibreChat sends the same id in the body's `user`: another one means that somebody forged one of the two.

    Raises Refusal `user_mismatch`.
    """
    if caller.external_id and user is not None and user != caller.external_id:
        raise Refusal("user_mismatch")


def decode(raw: str) -> str:
    """Header text as its sender meant it; always encodable as UTF-8."""
    if raw.startswith("b64:"):
        try:
            return base64.b64decode(raw[4:], validate=True).decode("utf-8")
        except (binascii.Error, ValueError):
            return raw.encode("utf-8", "replace").decode("utf-8")
    if raw.isascii():
        return raw
    data = _bytes(raw)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _bytes(raw: str) -> bytes:
    """The bytes that came: aiohttp turns those that are no UTF-8 into surrogates, each standing for one byte."""
    try:
        return raw.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return raw.encode("utf-8", "replace")


def label(raw: str | None) -> str:
    """A label for people: decoded, unresolved placeholders and control characters dropped, every kind of space a
    plain one, cut to its limit."""
    if not raw:
        return ""
    if raw.isascii() and raw.isprintable() and not raw.startswith(("b64:", "{{")):
        return raw.strip()[:LABEL_LENGTH_MAX]  # as nearly all are
    text = decode(raw)
    if text.startswith("{{") and text.endswith("}}"):
        return ""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text if c.isprintable() or c.isspace())
    return text.strip()[:LABEL_LENGTH_MAX]
