"""Every test here may have a chain of its own, or share the whole one that `make up` starts."""

from collections.abc import Iterator

import pytest

from tests.harness.chain_fixtures import chain, upstream
from tests.harness.up import Up

__all__ = ["chain", "up", "upstream"]


@pytest.fixture(scope="package")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """The whole chain, running, one for all tests that want it: LiteLLM takes long to start. It is stopped at the end,
    and must have left nothing behind."""
    shared = Up(tmp_path_factory.mktemp("up"))
    try:
        shared.start()
        yield shared
    finally:
        code = shared.stop()
    assert code == 0, shared.log.read_text()
    assert "Everything has ended." in shared.log.read_text()
