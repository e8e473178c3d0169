"""Every test here may have a chain of its own."""

from tests.harness.chain_fixtures import chain, upstream

__all__ = ["chain", "upstream"]
