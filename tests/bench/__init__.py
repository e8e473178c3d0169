"""The benchmark of the gateway beside its peers, and of the meter: `make bench`, `make bench-meter`.

Everything is measured in one run on one machine, interleaved, and told as ratios to nginx: absolute figures of a shared
machine mean little. docs/performance.md has the last result and what it means.
"""
