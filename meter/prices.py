"""Price versions in Postgres: imported from litellm's bundled map, overridden by the operator, never changed.

A version is a whole set of models, so that any charge can be recomputed from the version that it names. Connections are
asyncpg's; each function is one transaction, and two that run at once follow one another.
"""

import asyncio
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from decimal import Decimal
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import msgspec

from meter.price_map import Compiled, compile_map
from shared import sql
from shared.pricing import KINDS, PricedModel
from shared.pricing.names import NAME_LENGTH_MAX

BUNDLED_MAP: Final = "model_prices_and_context_window_backup.json"
"""The map inside the litellm package."""
RATE_MAX: Final = 10**18
"""Largest rate that an operator may set, in nano-USD per million units: USD 1,000 per unit."""
VERSIONS_KEPT: Final = 8
"""Versions that a PriceBook keeps in memory, about 10 MB each; events name few but the newest."""
VERSIONS_LOST_MAX: Final = 10_000
"""Numbers above the newest version that events may name and are believed."""
OPERATOR: Final = "operator"
"""Source of a version that differs from the one before by an override, or by one taken back."""
LITELLM: Final = "litellm"
"""Source of a version that comes from the bundled map, with the package's version behind a space."""

_QUERIES: Final = sql.parse((Path(__file__).parent / "sql" / "prices.sql").read_text(encoding="utf-8"))
_decoder = msgspec.json.Decoder(PricedModel)


class PriceSourceError(RuntimeError):
    """The price map is not there or cannot be read; the text says what to do."""


class PriceError(ValueError):
    """A price that cannot be set or removed as asked; the text says why."""


class Unpriceable(msgspec.Struct, frozen=True):
    """A model of the map that no version prices."""

    model: str
    reason: str


class ImportReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an import came to, against the version before. `version` is the newest one after it."""

    version: int
    source: str
    created: bool
    """False where the newest version already said the same."""
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()
    """Models whose price is the operator's."""
    unpriceable: tuple[Unpriceable, ...] = ()


async def ensure_prices(conn: Any, created_by: str = "import") -> int:
    """The newest price version, after importing the bundled map where nothing was imported yet, or where what was
    imported last is that of an older litellm. What a person has imported since stays.

    Raises PriceSourceError, and asyncpg's errors.
    """
    if await _is_outdated(conn):
        return (await _import(conn, None, created_by, if_outdated=True)).version
    version, _, _ = await _newest(conn)
    return version


async def import_prices(conn: Any, source_path: Path | None = None, created_by: str = "import") -> ImportReport:
    """Import the bundled map, or the one at `source_path`. The operator's overrides stand over it.

    Raises PriceSourceError, and asyncpg's errors.
    """
    return await _import(conn, source_path, created_by)


async def set_price(conn: Any, model: str, rates: Mapping[str, int], created_by: str) -> int:
    """Override a model's price, or give one to a model that has none: a further version, whose number is returned.

    `rates` are nano-USD per million units by kind and stand alone: tiers and service tiers of the map do not apply.
    Raises PriceError, and asyncpg's errors.
    """
    if not 0 < len(model) <= NAME_LENGTH_MAX or not model.isprintable():
        raise PriceError(f"a model's name has 1 to {NAME_LENGTH_MAX} printable characters")
    if not rates:
        raise PriceError("a price needs at least one rate, for example input and output")
    for kind, rate in rates.items():
        if kind not in KINDS:
            raise PriceError(f"{kind} is no kind of usage; the kinds are {', '.join(KINDS)}")
        if not 0 <= rate <= RATE_MAX:
            raise PriceError(f"the rate of {kind} is {rate}; it may be 0 to {RATE_MAX} nano-USD per million units")
    async with conn.transaction():
        await conn.execute(_QUERIES["lock_prices"])
        version, _, models = await _newest(conn)
        known = models.get(model, PricedModel(model=model, rates={}))
        priced = PricedModel(
            model=model,
            provider=known.provider,
            mode=known.mode,
            rates=dict(rates),
            override=True,
            input_max=known.input_max,
            output_max=known.output_max,
            reasoning=known.reasoning,
            imported=known.imported if known.override else models.get(model),
        )
        return await _insert(conn, await _following(conn, version), OPERATOR, {**models, model: priced}, created_by)


async def remove_price(conn: Any, model: str, created_by: str) -> tuple[int, PricedModel | None]:
    """Take an override back: what was imported last stands again, and no other price changes. Returns the version, and
    the price in it: None where the last import has none.

    Raises PriceError where the model has no override, and asyncpg's errors.
    """
    async with conn.transaction():
        await conn.execute(_QUERIES["lock_prices"])
        version, _, models = await _newest(conn)
        override = models.pop(model, None)
        if override is None or not override.override:
            raise PriceError(f"{model} has no override")
        imported = override.imported
        if isinstance(imported, msgspec.UnsetType):
            definition = await conn.fetchval(_QUERIES["newest_imported"], model)
            imported = _decoder.decode(definition) if definition else None
        if imported is not None:
            models[model] = imported
        return await _insert(conn, await _following(conn, version), OPERATOR, models, created_by), imported


class PriceBook:
    """Price versions by number, read once each."""

    def __init__(self) -> None:
        self._versions: OrderedDict[int, dict[str, PricedModel]] = OrderedDict()

    @property
    def at_hand(self) -> dict[int, dict[str, PricedModel]]:
        """The versions that were read and are kept."""
        return dict(self._versions)

    def forget(self) -> None:
        """Read all anew: a Postgres that was put back may give a number to another version."""
        self._versions.clear()

    async def load(self, conn: Any, version: int) -> dict[str, PricedModel]:
        """The models of a version by name; empty where there is no such version. Raises asyncpg's errors."""
        models = self._versions.get(version)
        if models is None:
            models = await _definitions(conn, version)
            if models:
                self._versions[version] = models
                if len(self._versions) > VERSIONS_KEPT:
                    self._versions.popitem(last=False)
        else:
            self._versions.move_to_end(version)
        return models


def bundled_map() -> Path:
    """Where the installed litellm has its map; litellm is not imported. Raises PriceSourceError."""
    spec = find_spec("litellm")
    if spec is None or not spec.submodule_search_locations:
        raise PriceSourceError("litellm is not installed; install the extra `meter`, or name a price map")
    return Path(spec.submodule_search_locations[0]) / BUNDLED_MAP


def read_map(path: Path) -> dict[str, dict[str, Any]]:
    """A price map with its prices as exact decimals. Raises PriceSourceError."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, ValueError) as error:
        raise PriceSourceError(f"the price map {path.name} cannot be read: {error}") from error
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise PriceSourceError(f"the price map {path.name} is no JSON object of models")
    return entries


def digest_of(models: Mapping[str, PricedModel]) -> bytes:
    """SHA-256 over the definitions in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(models):
        digest.update(msgspec.json.encode(models[name], order="deterministic"))
        digest.update(b"\n")
    return digest.digest()


def _compile(path: Path) -> Compiled:
    return compile_map(read_map(path))


async def _is_outdated(conn: Any) -> bool:
    """Whether nothing was imported yet, or last the map of a litellm that is older than the installed one."""
    source = await conn.fetchval(_QUERIES["newest_import"], OPERATOR)
    if source is None:
        return True
    package, _, imported = source.partition(" ")
    try:
        return package == LITELLM and _release(imported) < _release(installed_version(LITELLM))
    except PackageNotFoundError:
        return False  # there are prices: they serve without the package too


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a package's version: `1.106.2` and its candidates and repairs are one."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


async def _import(conn: Any, source_path: Path | None, created_by: str, *, if_outdated: bool = False) -> ImportReport:
    """With `if_outdated` only where that is still so when it is our turn."""
    path = source_path or bundled_map()
    source = path.name if source_path else f"{LITELLM} {installed_version(LITELLM)}"
    compiled = await asyncio.to_thread(_compile, path)
    if not compiled.models:
        raise PriceSourceError(f"the price map {path.name} has no price")
    unpriceable = tuple(Unpriceable(model, reason) for model, reason in sorted(compiled.unpriceable.items()))

    async with conn.transaction():
        await conn.execute(_QUERIES["lock_prices"])
        version, digest, before = await _newest(conn)
        overrides = {
            name: msgspec.structs.replace(model, imported=compiled.models.get(name))
            for name, model in before.items()
            if model.override
        }
        models = compiled.models | overrides
        created = digest_of(models) != digest and not (if_outdated and not await _is_outdated(conn))
        if created:
            version = await _insert(conn, await _following(conn, version), source, models, created_by)
    return ImportReport(
        version=version,
        source=source,
        created=created,
        added=tuple(sorted(models.keys() - before.keys())),
        changed=tuple(
            sorted(name for name in models.keys() & before.keys() - overrides.keys() if models[name] != before[name])
        ),
        removed=tuple(sorted(before.keys() - models.keys())),
        overridden=tuple(sorted(overrides)),
        unpriceable=unpriceable,
    )


async def _newest(conn: Any) -> tuple[int, bytes, dict[str, PricedModel]]:
    """Number, digest and models of the newest version; 0 and nothing where there is none."""
    row = await conn.fetchrow(_QUERIES["newest_prices"])
    if row is None:
        return 0, b"", {}
    return row["price_version"], row["digest"], await _definitions(conn, row["price_version"])


async def _following(conn: Any, version: int) -> int:
    """The number of the next version: none that events name which wait for it, as it was lost when Postgres was put
    back. They are corrected by the next one, and what they name is no other version."""
    named = await conn.fetchval(_QUERIES["named_versions"], version, version + VERSIONS_LOST_MAX)
    return int(named or version) + 1


async def _definitions(conn: Any, version: int) -> dict[str, PricedModel]:
    rows = await conn.fetch(_QUERIES["price_definitions"], version)
    return {model.model: model for model in (_decoder.decode(row["definition"]) for row in rows)}


async def _insert(conn: Any, version: int, source: str, models: Mapping[str, PricedModel], created_by: str) -> int:
    """Write a version and tell the projection. The rows go in as one statement."""
    await conn.execute(_QUERIES["insert_price_version"], version, source, digest_of(models), created_by)
    names = list(models)
    definitions = [msgspec.json.encode(models[name]).decode() for name in names]
    await conn.execute(_QUERIES["insert_prices"], version, names, definitions)
    await conn.execute(_QUERIES["announce_prices"])
    await conn.execute(_QUERIES["notify_prices"])
    return version
