"""Every test here may have a chain of its own; one that breaks a server starts servers of its own instead."""

from tests.harness.chain_fixtures import chain, upstream

__all__ = ["chain", "upstream"]
