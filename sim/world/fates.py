"""Who decides what a power cut leaves: everything, nothing, a seeded mix, or an explicit list of choices."""

from __future__ import annotations

from sim.world.rand import Stream


class AllLanded:
    """Every pending operation has reached the device."""

    def sectors(self, count: int) -> int:
        return (1 << count) - 1

    def size(self) -> bool:
        return True

    def entry(self) -> bool:
        return True


class NoneLanded:
    """Nothing that was not synced has reached the device."""

    def sectors(self, count: int) -> int:
        return 0

    def size(self) -> bool:
        return False

    def entry(self) -> bool:
        return False


class MixedFates:
    """Each operation lands, is lost, or is torn; the mix itself is drawn per power cut, so that extremes come up often.

    `landed`, `lost` and `torn` count what was decided, by operation, for the report of faults fired.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._land = stream.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        self._tear = stream.choice((0.0, 0.2, 0.5, 0.9))
        self._entry = stream.choice((0.0, 0.5, 0.9, 1.0))
        self.landed = self.lost = self.torn = self.entries_lost = 0

    def sectors(self, count: int) -> int:
        stream = self._stream
        full = (1 << count) - 1
        if count > 1 and stream.random() < self._tear:
            mask = self._torn(count)
            if 0 < mask < full:
                self.torn += 1
                return mask
        if stream.random() < self._land:
            self.landed += 1
            return full
        self.lost += 1
        return 0

    def _torn(self, count: int) -> int:
        """A prefix, a suffix, all but one, one alone, or any subset."""
        stream = self._stream
        full = (1 << count) - 1
        at = stream.between(1, count - 1)
        shape = stream.between(0, 4)
        if shape == 0:
            return (1 << at) - 1
        if shape == 1:
            return full ^ ((1 << at) - 1)
        if shape == 2:
            return full ^ (1 << at)
        if shape == 3:
            return 1 << at
        return stream.getrandbits(count)

    def size(self) -> bool:
        return self._stream.random() < self._land

    def entry(self) -> bool:
        if self._stream.random() < self._entry:
            return True
        self.entries_lost += 1
        return False


class ChosenFates:
    """Takes decisions from a list, for exhaustive enumeration: sector masks, and 0 or 1 for sizes and entries.

    When the list is used up, `rest` decides (1: landed). `asked` tells how many choices each decision had.
    """

    def __init__(self, choices: list[int], rest: int = 0) -> None:
        self._choices = choices
        self._rest = rest
        self.asked: list[int] = []

    def _next(self, choices: int) -> int:
        index = len(self.asked)
        self.asked.append(choices)
        return self._choices[index] if index < len(self._choices) else self._rest * (choices - 1)

    def sectors(self, count: int) -> int:
        return self._next(1 << count)

    def size(self) -> bool:
        return bool(self._next(2))

    def entry(self) -> bool:
        return bool(self._next(2))
