"""Random streams by name: each choice has its own, so that one more fault does not move all the others.

A stream's seed is a hash of (world seed, name) by blake2b, never Python's `hash()`, which changes with PYTHONHASHSEED.
"""

from __future__ import annotations

import random
from hashlib import blake2b


class Stream(random.Random):
    """A named stream; also the `Random` port of a simulated node."""

    def bits(self, count: int) -> int:
        return self.getrandbits(count)

    def chance(self, probability: float) -> bool:
        """Draw only if there is anything to draw, so that a fault that is switched off costs nothing."""
        return probability > 0.0 and self.random() < probability

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high]; cheaper than randint and with the same value on every Python."""
        return low if high <= low else low + int(self.random() * (high - low + 1))


class Streams:
    """All streams of one world."""

    __slots__ = ("seed", "_streams")

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._streams: dict[str, Stream] = {}

    def stream(self, name: str) -> Stream:
        """Return the stream of that name, made at its first use."""
        found = self._streams.get(name)
        if found is None:
            found = self._streams[name] = Stream(derive(self.seed, name))
        return found


def derive(seed: int, name: str) -> int:
    """A 128-bit seed for `name` under `seed`."""
    return int.from_bytes(blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest(), "little")
