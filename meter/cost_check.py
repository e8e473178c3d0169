"""Whether the upstream's own figure of a call's cost contradicts ours. Pure.

A difference is no fact of the call: it changes when a price does, so it is counted and listed, never written down.
"""

from typing import Final

from shared.usage import Usage

DIFFERENCE_PPM_MAX: Final = 10_000
"""Difference from the upstream's figure that is none yet, in parts per million of it: 1 %."""
ROUNDING_NANO_MAX: Final = 1
"""Difference for each token, in nano-USD, that is none yet: what rounding a price or a cost may come to."""


def differs(ours_nano: int, theirs_nano: int, usage: Usage) -> bool:
    """Whether two costs of one call, in nano-USD, differ by more than both limits; `theirs_nano` is above 0."""
    difference = abs(ours_nano - theirs_nano)
    rounding = ROUNDING_NANO_MAX * (usage.tokens_in + usage.tokens_out)
    return difference > rounding and difference * 1_000_000 > theirs_nano * DIFFERENCE_PPM_MAX
