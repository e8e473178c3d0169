"""Settings: from the environment or from files, every mistake at once, none of them a secret."""

from pathlib import Path

import pytest

from shared.settings import CommandSettings, GatewaySettings, MeterSettings, SettingsError, load

NEEDED = {"SUNDIAL_REDIS_URL": "redis://:s3cret@127.0.0.1:6379/0", "SUNDIAL_UPSTREAM_URL": "http://127.0.0.1:4000/v1"}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own settings reaches a test."""
    import os

    for name in list(os.environ):
        if name.startswith("SUNDIAL_"):
            monkeypatch.delenv(name)


def use(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Set these variables; names are given without their prefix."""
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)
    for name, value in variables.items():
        monkeypatch.setenv(f"SUNDIAL_{name.upper()}", value)


def mistakes(cls: type[GatewaySettings] | type[MeterSettings] | type[CommandSettings] = GatewaySettings) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(cls)
    return str(caught.value).splitlines()


def test_variables_are_read_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """`SUNDIAL_` and the setting in capitals; a slash at the end of a base URL is dropped."""
    use(monkeypatch, gateway_port="9000", upstream_url="https://example.com/v1/", language="en", drain_s="2.5")
    settings = load(GatewaySettings)
    assert (settings.gateway_port, settings.upstream_url) == (9000, "https://example.com/v1")
    assert (settings.language, settings.drain_s, settings.home) == ("en", 2.5, Path(".sundial"))


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files pass empty values for what is not set."""
    use(monkeypatch, gateway_port="", upstream_key="")
    assert load(GatewaySettings).gateway_port == 8080


def test_a_secret_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`…_FILE` names it; a final newline is no part of it. The variable itself counts before the file."""
    secret = tmp_path / "key"
    secret.write_text("sk-é\n", encoding="utf-8")
    use(monkeypatch, upstream_key_file=str(secret))
    assert load(GatewaySettings).upstream_key == "sk-é"
    use(monkeypatch, upstream_key="sk-direct")
    assert load(GatewaySettings).upstream_key == "sk-direct"


def test_all_mistakes_are_reported_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line for each: what is missing, what is wrong, and files that cannot be read, each with its variable."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    monkeypatch.setenv("SUNDIAL_GATEWAY_PORT", "99999")
    monkeypatch.setenv("SUNDIAL_TIMEZONE", "Mars/Olympus")
    monkeypatch.setenv("SUNDIAL_UPSTREAM_KEY_FILE", str(tmp_path / "nowhere"))
    monkeypatch.setenv("SUNDIAL_CREDITS_URL_FILE", str(binary))
    monkeypatch.setenv("SUNDIAL_HOME_FILE", str(tmp_path))
    found = mistakes()
    assert [line.split(" ")[0].rstrip(":") for line in sorted(found)] == [
        "SUNDIAL_CREDITS_URL_FILE",
        "SUNDIAL_GATEWAY_PORT",
        "SUNDIAL_HOME_FILE",
        "SUNDIAL_REDIS_URL",
        "SUNDIAL_TIMEZONE",
        "SUNDIAL_UPSTREAM_KEY_FILE",
        "SUNDIAL_UPSTREAM_URL",
    ]
    assert f"SUNDIAL_UPSTREAM_KEY_FILE: {tmp_path / 'nowhere'}: No such file or directory" in found
    assert "SUNDIAL_REDIS_URL is not set (or SUNDIAL_REDIS_URL_FILE, naming a file that holds it)" in found


def test_no_mistake_repeats_a_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A URL with a password that is wrong is not printed; nor is what a file holds."""
    held = tmp_path / "url"
    held.write_text("mysql://root:s3cret@db", encoding="utf-8")
    monkeypatch.setenv("SUNDIAL_DATABASE_URL_FILE", str(held))
    monkeypatch.setenv("SUNDIAL_REDIS_URL", "http://:s3cret@127.0.0.1")
    found = mistakes(CommandSettings)
    assert len(found) == 2
    assert "s3cret" not in "".join(found)


@pytest.mark.parametrize("amount", ["1.000", "1,000", "many", "-5"])
def test_an_allowance_is_an_amount_of_one_meaning(monkeypatch: pytest.MonkeyPatch, amount: str) -> None:
    """As on the command line, and said at the start: `1.000` may be one credit or a thousand."""
    use(monkeypatch, database_url="postgresql://x", default_allowance=amount)
    [found] = mistakes(MeterSettings)
    assert found.startswith("SUNDIAL_DEFAULT_ALLOWANCE")


@pytest.mark.parametrize(
    ("text", "shards"),
    [
        ("0", (0,)),
        ("0-3", (0, 1, 2, 3)),
        ("3,1, 2", (1, 2, 3)),
        ("0-1,1-2,15", (0, 1, 2, 15)),
        ("0-15", tuple(range(16))),
    ],
)
def test_shards_are_ranges_and_numbers(monkeypatch: pytest.MonkeyPatch, text: str, shards: tuple[int, ...]) -> None:
    """Each shard once, in order."""
    use(monkeypatch, database_url="postgresql://x", shards=text)
    assert load(MeterSettings).shards == shards


@pytest.mark.parametrize(
    "text", ["x", "1-", "-1", "1-x", "5-2", "16", "3,16", "0-16", "0-99999999999999", "1;2", "1,,2"]
)
def test_a_shard_that_does_not_exist_is_a_mistake(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Wrong ranges are told at once, however large: none is dropped in silence, as its stream would never be read."""
    use(monkeypatch, database_url="postgresql://x", shards=text)
    (line,) = mistakes(MeterSettings)
    assert line.startswith("SUNDIAL_SHARDS: ")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "upstream_url",
            [
                *("ftp://x", "127.0.0.1:4000", "http://", "http://a b", "http://x:y/v1", "http://[::1]:65536"),
                "http://h:x",
            ],
        ),
        (
            "redis_url",
            [
                *("127.0.0.1:6379", "http://x", "unix:///x", "redis://127.0.0.1:1/abc", "redis://127.0.0.1/-1"),
                *("redis://:s3cret@127.0.0.1:x/0", "redis://127.0.0.1:70000", "redis://[::1", "redis://h/0/1"),
                *("redis://:p@x:0/0", "redis://x:99999", "redis://x:y/0"),
            ],
        ),
        ("forwarded_paths", ["files", "/*", "GET /files, /f*", "HEAD /files"]),
        ("trusted_proxies", ["nobody", "10.0.0.0/8, 10.0.0.1/8", "10.0.0.0/33"]),
        ("language", ["pt", "EN"]),
        ("slice_tokens", ["63", "65537", "1.5"]),
        ("hold_ttl_s", ["4", "3601"]),
        ("first_byte_timeout_s", ["0", "-1", "inf"]),
        ("gateway_name", ["a/b", ".hidden", "a b", "x" * 65]),
        ("credits_url", ["x", "https://" + "x" * 91, "https://{x}", "https://a b"]),
        ("log", ["verbose"]),
    ],
)
def test_values_out_of_range_are_mistakes(monkeypatch: pytest.MonkeyPatch, name: str, values: list[str]) -> None:
    """Each is told with the variable to change."""
    for value in values:
        use(monkeypatch, **{name: value})
        (line,) = mistakes()
        assert line.startswith(f"SUNDIAL_{name.upper()}: "), value


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("postgresql://u:p@h/sundial", True),
        ("postgresql://u:p@h:/sundial", True),
        ("postgresql:///sundial?host=/var/run:x", True),
        ("postgresql://u:p:q@a:1,[::1]:65535/sundial", True),
        ("postgresql://u:p@a:1,b:65536/sundial", False),
        ("postgresql://u:p@h:port/sundial", False),
        ("postgresql://h:54 32", False),
    ],
)
def test_a_port_in_a_url_is_a_port(monkeypatch: pytest.MonkeyPatch, url: str, right: bool) -> None:
    """It is no other program's to find out, at its first connection; what is no port is not repeated."""
    use(monkeypatch, database_url=url)
    if right:
        assert load(MeterSettings).database_url == url
    else:
        assert mistakes(MeterSettings) == ["SUNDIAL_DATABASE_URL: its port must be a number from 1 to 65535"]


@pytest.mark.parametrize("text", ["1.000.000,5", "-1", "x", "0.0001", "99999999999999999"])
def test_an_allowance_that_is_none_is_a_mistake(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Whether or not a plan exists to which it would be given."""
    use(monkeypatch, database_url="postgresql://x", default_allowance=text)
    (line,) = mistakes(MeterSettings)
    assert line.startswith("SUNDIAL_DEFAULT_ALLOWANCE: ")


def test_lists_and_urls_are_told_with_all_other_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their form is a setting's as any other: one start says all."""
    use(
        monkeypatch,
        redis_url="redis://:s3cret@127.0.0.1:1/abc",
        forwarded_paths="files",
        trusted_proxies="nobody",
        gateway_port="99999",
    )
    found = mistakes()
    assert sorted(line.split(": ")[0].removeprefix("SUNDIAL_") for line in found) == [
        "FORWARDED_PATHS", "GATEWAY_PORT", "REDIS_URL", "TRUSTED_PROXIES"
    ]  # fmt: skip
    assert "s3cret" not in "".join(found)


def test_settings_cannot_change_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read once, at start."""
    use(monkeypatch)
    settings = load(GatewaySettings)
    with pytest.raises(ValueError, match="frozen"):
        settings.gateway_port = 1
