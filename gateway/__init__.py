"""The gateway: admits a call, relays its answer, settles what it used. Speaks to Redis and the upstream only."""
