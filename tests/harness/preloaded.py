"""What programs and commands import, imported once: in the process that theirs are forked from (forked.py).

The vocabularies are loaded there too; each gateway would take a second of processor time for them.
"""

import gc

import asyncpg
import redis.asyncio

import gateway.app
import meter.app
import shared.settings
import sundial.__main__
import sundial.account_page
import sundial.accounts
import sundial.database
import sundial.orders
import sundial.projection
import sundial.statement
from gateway.app import VOCABULARIES
from gateway.recount import vocabulary

__all__ = ["asyncpg", "gateway", "meter", "redis", "shared", "sundial"]

for name in VOCABULARIES:
    vocabulary.load(name)
gc.collect()
gc.freeze()  # what is looked at by nobody's collector stays shared memory
