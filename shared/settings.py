"""Every setting of every program: environment variables `SUNDIAL_…`, or `SUNDIAL_…_FILE` naming a file that holds it.

All mistakes are reported at once at start, each with the variable to change.
"""

import base64
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from shared.ids import SHARDS
from shared.listed import networks, paths
from shared.units import parse_credits

KEY_BYTES: Final = 32
"""Length of an Ed25519 key, private or public."""
PORT_MAX: Final = 65_535
_PREFIX: Final = "SUNDIAL_"


class SettingsError(Exception):
    """Settings that cannot be used; the text lists every mistake, one per line."""


def _parse_shards(value: Any) -> Any:
    """`0-7,9` → the shards it names."""
    if not isinstance(value, str):
        return value
    shards: list[int] = []
    for part in value.split(","):
        found = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part.strip())
        if found is None or int(found[2] or found[1]) < int(found[1]):
            raise ValueError(f"{part.strip()!r} is no range of shards; write for example 0-7 or 0,1,2")
        shards.extend(range(int(found[1]), int(found[2] or found[1]) + 1))
    return tuple(sorted(set(shards)))


def _check_shards(value: tuple[int, ...]) -> tuple[int, ...]:
    if not value or min(value) < 0 or max(value) >= SHARDS:
        raise ValueError(f"shards lie between 0 and {SHARDS - 1}, at least one of them")
    return value


def _check_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"{value!r} is no time zone; write for example America/Sao_Paulo") from None
    return value


def _check_key(value: str) -> str:
    try:
        raw = base64.b64decode(value, validate=True)
    except ValueError:
        raw = b""
    if value and len(raw) != KEY_BYTES:
        raise ValueError(f"must be {KEY_BYTES} bytes in base64, as `openssl rand -base64 {KEY_BYTES}` makes them")
    return value


def _check_redis(value: str) -> str:
    database = urlsplit(value).path.strip("/")
    if database and re.fullmatch(r"[0-9]{1,5}", database) is None:
        raise ValueError("the path is the number of a database; write for example redis://127.0.0.1:6379/0")
    return value


def _check_allowance(value: str) -> str:
    if parse_credits(value) < 0:
        raise ValueError("an allowance is 0 or more credits; write for example 1000000 or 0.5")
    return value


def _check_networks(value: str) -> str:
    networks(value)
    return value


def _check_paths(value: str) -> str:
    paths(value)
    return value


def _strip_slash(value: str) -> str:
    return value.rstrip("/")


def _check_port_of_url(value: str) -> str:
    """Where there is one; Postgres's URLs may name several hosts."""
    hosts = re.split("[/?#]", value.partition("://")[2], maxsplit=1)[0].rpartition("@")[2]
    for host in hosts.split(","):
        port = host.rpartition("]")[2].partition(":")[2]
        if port and not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) <= PORT_MAX):
            raise ValueError(f"its port must be a number from 1 to {PORT_MAX}")
    return value


Port = Annotated[int, Field(ge=0, le=PORT_MAX)]
BaseUrl = Annotated[
    str, Field(pattern=r"^https?://[^\s]+$"), AfterValidator(_check_port_of_url), AfterValidator(_strip_slash)
]
RedisUrl = Annotated[
    str, Field(pattern=r"^rediss?://"), AfterValidator(_check_port_of_url), AfterValidator(_check_redis)
]
DatabaseUrl = Annotated[str, Field(pattern=r"^postgres(ql)?://"), AfterValidator(_check_port_of_url)]
Shards = Annotated[tuple[int, ...], NoDecode, BeforeValidator(_parse_shards), AfterValidator(_check_shards)]
Zone = Annotated[str, AfterValidator(_check_zone)]
Key = Annotated[str, AfterValidator(_check_key)]
Price = Annotated[Decimal, Field(ge=0, le=1_000_000, max_digits=16, decimal_places=9)]
"""USD per million tokens, to the nano-dollar."""


class _Unreadable:
    """Stands for the value in a file that cannot be read: no setting takes it, so that it is reported with the rest."""

    def __init__(self, mistake: str) -> None:
        self.mistake = mistake


class _FileSource(PydanticBaseSettingsSource):
    """`SUNDIAL_X_FILE=/run/secrets/x` gives the setting `x` the file's content, less a final newline."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        path = os.environ.get(f"{_PREFIX}{field_name.upper()}_FILE")
        if not path:
            return None, field_name, False
        name = f"{_PREFIX}{field_name.upper()}_FILE"
        try:
            return Path(path).read_text(encoding="utf-8").rstrip("\n"), field_name, False
        except OSError as error:
            return _Unreadable(f"{name}: {path}: {error.strerror}"), field_name, False
        except UnicodeDecodeError:
            return _Unreadable(f"{name}: {path}: it is no text in UTF-8"), field_name, False

    def __call__(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            value, key, _ = self.get_field_value(field, name)
            if value is not None:
                values[key] = value
        return values


class _Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="ignore", frozen=True, env_ignore_empty=True)

    home: Path = Path(".sundial")
    """The folder of what a program keeps: the gateway its journal, `sundial up` its servers' data too. A relative one
    lies below the working directory."""
    log: Literal["pretty", "json", "auto"] = "auto"
    """`auto`: pretty on a terminal, JSON lines elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is worth a line."""
    timezone: Zone = "America/Sao_Paulo"
    """Decides where a month and a day begin."""
    language: Literal["pt-BR", "en"] = "pt-BR"
    """Of statements, receipts and refusals."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _FileSource(settings_cls)


class GatewaySettings(_Settings):
    redis_url: RedisUrl
    """`redis://:password@host:6379/0`, or `rediss://`: one Redis for all programs, where nothing is evicted."""
    upstream_url: BaseUrl
    """Base URL of LiteLLM or any OpenAI-compatible API, with its `/v1`."""
    upstream_key: str = ""
    """What the upstream takes as its API key: clients never see it."""
    gateway_host: str = "127.0.0.1"
    """The address on which clients are served; `0.0.0.0`: all of this machine."""
    gateway_port: Port = 8080
    """0: any free one."""
    gateway_metrics_host: str = "127.0.0.1"
    """The address of `/livez`, `/readyz` and `/metrics`, which ask for no key."""
    gateway_metrics_port: Port = 9464
    """The port of these; 0: any free one."""
    gateway_name: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")] = ""
    """Names this process in events, logs and its journal's folder; default: host name and process id. Of several
    workers each adds its number."""
    gateway_workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that share the port, one core each. What a process keeps for itself it keeps as often: connections to
    the upstream, counts of wrong keys, threads of the tokenizer."""
    credits_url: Annotated[str, Field(pattern=r"^(https?://[^\s{}]+)?$", max_length=98)] = ""
    """Where a user gets more credits: stands at the end of the refusal, whole."""
    slice_tokens: Annotated[int, Field(ge=64, le=65536)] = 1024
    """Output tokens that a running call holds ahead: the most that it can overspend."""
    hold_ttl_s: Annotated[int, Field(ge=5, le=3600)] = 60
    """A hold not heard of for so long is expired by the meter and charged at its last note."""
    drain_grace_s: Annotated[float, Field(ge=0, le=300)] = 5.0
    """How long a gateway that is told to stop still takes calls, so that load balancers notice that it is not ready."""
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 60.0
    """How long running calls then have to finish; what is left is cut and booked as `drained`."""
    head_timeout_s: Annotated[float, Field(gt=0, le=300)] = 15.0
    """How long the head of a request may take, from its first byte to its last."""
    body_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """How long the body of a request may take to come; a form may take longer, by its size."""
    client_stall_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """How long a client may leave a full buffer unread before it is cut off."""
    first_byte_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 600.0
    """How long the upstream may take to begin its answer."""
    idle_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 300.0
    """Longest silence of the upstream inside an answer."""
    answer_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 3600.0
    """Longest time that one answer may take in all, however steadily it trickles."""
    keepalive_s: Annotated[float, Field(gt=0, le=300)] = 15.0
    """Silence after which a stream gets an SSE comment: Node clients cut after 300 s. After three such times without
    the upstream's head a stream begins without it."""
    body_bytes_max: Annotated[int, Field(ge=1024, le=1 << 30)] = 64 * 1024 * 1024
    """Largest body of a request."""
    memory_bytes_max: Annotated[int, Field(ge=0)] = 0
    """Memory that the gateway may have, its workers in equal parts: near it connections are let go, then no call
    begins. 0: what its control group (its container) may have."""
    journal_bytes_max: Annotated[int, Field(ge=4 * 1024 * 1024, le=1 << 40)] = 1024 * 1024 * 1024
    """The most that the journal of one process may have on the disk. It keeps a day, but where that is more than this
    the oldest goes first, as soon as Redis has confirmed it."""
    stream_entries_max: Annotated[int, Field(ge=1, le=100_000_000)] = 1_000_000
    """Unposted entries of one shard's stream at which admission closes."""
    recount_sample: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the calls with usage that are counted by tokenizer too, to know how far it is off."""
    trusted_proxies: Annotated[str, AfterValidator(_check_networks)] = ""
    """Addresses and networks whose X-Forwarded-For is believed (`10.0.0.0/8, 127.0.0.1`): for counting wrong keys."""
    forwarded_paths: Annotated[str, AfterValidator(_check_paths)] = ""
    """Paths below the base URL that are passed on unmetered: `GET /files, POST /files, /vector_stores/*`."""
    unpriced: Literal["refuse", "provisional"] = "refuse"
    """What becomes of a call of a model without a price. `provisional`: it is charged the price below, flagged, and
    corrected when a price comes."""
    provisional_input_usd: Price | None = None
    """USD per million tokens."""
    provisional_output_usd: Price | None = None
    """USD per million tokens."""

    @field_validator("provisional_input_usd", "provisional_output_usd")
    @classmethod
    def _need_provisional_price(cls, value: Decimal | None, info: ValidationInfo) -> Decimal | None:
        if value is None and info.data.get("unpriced") == "provisional":
            raise ValueError("needed where SUNDIAL_UNPRICED=provisional: USD per million tokens, for example 2.50")
        return value


class MeterSettings(_Settings):
    database_url: DatabaseUrl
    """`postgresql://user:password@host:5432/sundial`. The meter logs in as a member of `sundial_meter`, commands as one
    of `sundial_console`, `sundial migrate` as the owner."""
    redis_url: RedisUrl
    shards: Shards = tuple(range(SHARDS))
    """What this meter books, of all shards: several meters share the work (`0-7` and `8-15`)."""
    meter_metrics_host: str = "127.0.0.1"
    """The address of `/livez`, `/readyz` and `/metrics`, which ask for no key."""
    meter_metrics_port: Port = 9465
    """The port of these; 0: any free one."""
    meter_name: str = ""
    """Names this consumer in the group; default: the host name, so that a restarted meter finds what it still owed."""
    claim_idle_s: Annotated[float, Field(ge=0.1, le=3600)] = 30.0
    """Idle time after which entries that another meter has read and not booked are taken over."""
    default_allowance: Annotated[str, AfterValidator(_check_allowance)] = "1000000"
    """Credits that the plan `default` gives a user seen for the first time, where the plan does not exist yet."""
    checkpoint_key: Key = ""
    """Ed25519 private key that signs checkpoints: 32 random bytes in base64."""
    checkpoint_dir: Path | None = None
    """Where a checkpoint is written each day; best on a disk that the database's administrators cannot write to."""

    @field_validator("checkpoint_dir")
    @classmethod
    def _need_checkpoint_key(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and not info.data.get("checkpoint_key", "refused"):
            raise ValueError("needs SUNDIAL_CHECKPOINT_KEY (or _FILE): 32 bytes in base64, `openssl rand -base64 32`")
        return value


class DatabaseSettings(_Settings):
    """For commands that need Postgres alone."""

    database_url: DatabaseUrl


class CheckpointSettings(DatabaseSettings):
    """For commands that sign."""

    checkpoint_key: Annotated[Key, Field(min_length=1)]


class CommandSettings(DatabaseSettings):
    redis_url: RedisUrl
    upstream_url: BaseUrl = "http://127.0.0.1:4000/v1"
    upstream_key: str = ""
    gateway_metrics_url: BaseUrl = "http://127.0.0.1:9464"
    """Where `doctor` finds the gateway."""
    meter_metrics_url: BaseUrl = "http://127.0.0.1:9465"
    """Where `doctor` finds the meter."""
    forwarded_paths: str = ""
    """As the gateway has it, for `doctor` to show."""
    checkpoint_key: Key = ""
    checkpoint_public_key: Key = ""
    """Whose signature on a checkpoint is believed; default: that of SUNDIAL_CHECKPOINT_KEY."""


class UpSettings(_Settings):
    """For `sundial up`: what is named is used, what is not is started. Port 0: any free one, the same next time."""

    database_url: DatabaseUrl | None = None
    redis_url: RedisUrl | None = None
    upstream_url: BaseUrl | None = None
    upstream_key: str = ""
    gateway_host: str = "127.0.0.1"
    gateway_port: Port = 8080
    gateway_metrics_port: Port = 9464
    meter_metrics_port: Port = 9465
    litellm_port: Port = 0
    """0: 4000 where that is free, else any."""
    demo_port: Port = 0
    """0: 4010 where that is free, else any."""
    postgres_port: Port = 0
    """0: any free one."""
    redis_port: Port = 0
    """0: any free one."""
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 60.0


S = TypeVar("S", bound=_Settings)


def load(cls: type[S], **overrides: Any) -> S:
    """Settings from the environment. Raises SettingsError with every mistake, one per line, none of them a secret."""
    try:
        return cls(**overrides)
    except ValidationError as error:
        lines = []
        for mistake in error.errors(include_url=False):
            name = _PREFIX + str(mistake["loc"][0]).upper()
            if isinstance(mistake["input"], _Unreadable):
                lines.append(mistake["input"].mistake)
            elif mistake["type"] == "missing":
                lines.append(f"{name} is not set (or {name}_FILE, naming a file that holds it)")
            else:
                lines.append(f"{name}: {mistake['msg'].removeprefix('Value error, ')}")
        raise SettingsError("\n".join(lines)) from None
