"""Checkpoints: what the books said at one moment, signed, to be kept outside of the database.

The statement is JSON, and the Ed25519 signature is over its bytes as they are: version, when, each account's head (seq,
digest, balance), the sums of seqs and balances, the digest of every price version and rate card, how far each shard's
stream was booked, and the SHA-256 of the checkpoint before. A file holds statement, signature and public key; which
public key to trust is for whoever verifies to say.
"""

import base64
import os
import time
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from meter.audit_chain import CHECKPOINT_RULE, Wanted
from meter.violation import Violation
from shared import ids

VERSION: Final = 1
FILE_BYTES_MAX: Final = 1 << 30
"""Largest checkpoint file that is read, in bytes: some five million accounts."""

_HEADS: Final = """
    SELECT account_id, seq, balance_mc, coalesce(encode(digest, 'hex'), '') AS digest
      FROM sundial.balances WHERE seq > 0 ORDER BY account_id
"""
_PAGE_ROWS: Final = 1_000
_PRICES: Final = """
    SELECT price_version, encode(digest, 'hex') AS digest FROM sundial.price_versions ORDER BY price_version
"""
_CARDS: Final = """
    SELECT card, encode(sha256(convert_to(definition::text, 'UTF8')), 'hex') AS digest
      FROM sundial.rate_cards ORDER BY card
"""
_POSITIONS: Final = "SELECT shard, entry_id FROM sundial.stream_positions ORDER BY shard"
_BEFORE: Final = """
    SELECT encode(sha256(statement), 'hex') FROM sundial.checkpoints ORDER BY checkpoint_id DESC LIMIT 1
"""
_INSERT: Final = """
    INSERT INTO sundial.checkpoints (checkpoint_id, signature, public_key, statement) VALUES ($1, $2, $3, $4)
"""


class CheckpointError(Exception):
    """A file that is no checkpoint, or that proves nothing; the text says why."""


class Statement(msgspec.Struct, frozen=True):
    """What is signed."""

    version: int
    checkpoint_id: UUID
    created_at_us: int
    transfers: int
    """Sum of the seqs: the transfers of all accounts."""
    sum_mc: str
    """Sum of the balances, as text: it may exceed what JSON readers take for an integer."""
    prices: dict[str, str]
    """Digest of each price version, in hex."""
    positions: dict[str, str]
    """Last entry of each shard's stream that was booked."""
    before: str
    """SHA-256 of the checkpoint before, in hex; empty for the first."""
    heads: list[tuple[UUID, int, int, str]]
    """Account, seq, balance in mc, digest in hex: empty where no transfer has one yet."""
    cards: dict[str, str] = {}
    """SHA-256 of each rate card's definition as Postgres writes it, in hex; empty in files made before it was kept."""


class Checkpoint(msgspec.Struct, frozen=True):
    """As a file has it: bytes in base64."""

    statement: bytes
    signature: bytes
    public_key: bytes


def private_key(text: str) -> Ed25519PrivateKey:
    """The key that a setting holds, which has checked its form."""
    return Ed25519PrivateKey.from_private_bytes(base64.b64decode(text))


def public_key(text: str) -> bytes:
    """The public key that a setting holds, which has checked its form."""
    return base64.b64decode(text)


def public_half(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def key_text(raw: bytes) -> str:
    """A key as settings have it."""
    return base64.b64encode(raw).decode()


async def create(connection: Any, key: Ed25519PrivateKey) -> Checkpoint:
    """Sign what the books say at this moment, and keep it in them. Raises asyncpg's errors."""
    now_us = time.time_ns() // 1000
    checkpoint_id = ids.uuid7(now_us // 1000, os.urandom(10))
    async with connection.transaction(isolation="repeatable_read"):
        heads = [
            (UUID(str(row["account_id"])), row["seq"], row["balance_mc"], row["digest"])
            async for row in connection.cursor(_HEADS, prefetch=_PAGE_ROWS)
        ]
        statement = msgspec.json.encode(
            Statement(
                version=VERSION,
                checkpoint_id=checkpoint_id,
                created_at_us=now_us,
                transfers=sum(seq for _, seq, _, _ in heads),
                sum_mc=str(sum(balance_mc for _, _, balance_mc, _ in heads)),
                prices={str(row["price_version"]): row["digest"] for row in await connection.fetch(_PRICES)},
                positions={str(row["shard"]): row["entry_id"] for row in await connection.fetch(_POSITIONS)},
                before=await connection.fetchval(_BEFORE) or "",
                heads=heads,
                cards={row["card"]: row["digest"] for row in await connection.fetch(_CARDS)},
            )
        )
        made = Checkpoint(statement, key.sign(statement), public_half(key))
        await connection.execute(_INSERT, checkpoint_id, made.signature, made.public_key, made.statement)
    return made


def read(checkpoint: Checkpoint) -> Statement:
    """What a checkpoint says, unverified. Raises CheckpointError."""
    try:
        said = msgspec.json.decode(checkpoint.statement, type=Statement)
    except msgspec.DecodeError as error:
        raise CheckpointError(f"the checkpoint's statement cannot be read: {error}") from None
    if said.version != VERSION:
        raise CheckpointError(f"the checkpoint is of version {said.version}; this release reads version {VERSION}")
    return said


def verify(checkpoint: Checkpoint, trusted: bytes) -> Statement:
    """What a checkpoint says, if the key whose public half is `trusted` signed it. Raises CheckpointError."""
    if checkpoint.public_key != trusted:
        raise CheckpointError("the checkpoint was signed by another key than the trusted one")
    try:
        Ed25519PublicKey.from_public_bytes(trusted).verify(checkpoint.signature, checkpoint.statement)
    except (InvalidSignature, ValueError):
        raise CheckpointError("the checkpoint's signature is wrong: it was altered after it was signed") from None
    return read(checkpoint)


def heads(said: Statement) -> dict[UUID, Wanted]:
    """What the chains must still have on them."""
    return {account: Wanted(seq, bytes.fromhex(digest), balance) for account, seq, balance, digest in said.heads}


async def wrong_prices(connection: Any, said: Statement) -> list[Violation]:
    """Price versions and rate cards that are not what a checkpoint says. Raises asyncpg's errors."""
    versions = {str(row["price_version"]): row["digest"] for row in await connection.fetch(_PRICES)}
    cards = {row["card"]: row["digest"] for row in await connection.fetch(_CARDS)}
    return [
        Violation(CHECKPOINT_RULE, f"{what} {name}", "is gone, or its digest is not what the checkpoint says")
        for what, signed, kept in (("price version", said.prices, versions), ("rate card", said.cards, cards))
        for name, digest in signed.items()
        if kept.get(name) != digest
    ]


def load(path: Path) -> Checkpoint:
    """A checkpoint from its file. Raises CheckpointError."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise CheckpointError(f"{path} is too large to be a checkpoint")
        return msgspec.json.decode(path.read_bytes(), type=Checkpoint)
    except (OSError, msgspec.DecodeError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from None


def file_name(checkpoint_id: UUID) -> str:
    """Names sort by time."""
    stamp = time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime(ids.uuid7_ms(checkpoint_id) / 1000))
    return f"checkpoint-{stamp}-{checkpoint_id.hex[-8:]}.json"


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint to a file that is never written again; it is on the disk, and whole, when it has its name.

    Raises OSError, FileExistsError among them.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            file.write(msgspec.json.encode(checkpoint))
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)  # unlike a rename it replaces nothing
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
