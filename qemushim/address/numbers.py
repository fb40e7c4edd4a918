"""A space of numbers, of which each goes to one device: the simplest of buses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qemushim.document.node import Node
from qemushim.document.units import format_set
from qemushim.errors import AddressError


class Numbers:
    """Numbers from ``first`` to ``last``, the lowest free one first.

    ``taken`` makes the message about a number that is in use, ``full`` is the one where none is left.
    """

    def __init__(self, first: int, last: int, taken: Callable[[int], str], full: str) -> None:
        self.first = first
        self.last = last
        self._taken = taken
        self._full = full
        self._used: set[int] = set()
        #: every number below is in use
        self._low = first

    def __contains__(self, number: int) -> bool:
        return number in self._used

    def reserve(self, number: int, node: Node | None = None) -> None:
        """Take one number.  Raises ``AddressError`` where it is taken."""
        if number in self._used:
            raise AddressError(self._taken(number), element=node, hint=self.drawing())
        self._used.add(number)

    def next(self, node: Node | None = None, *, start: int | None = None) -> int:
        """Take the lowest free number (from ``start``).  Raises ``AddressError`` where none is left."""
        low = self._low if start is None else max(start, self._low)
        while low in self._used:
            low += 1
        if start is None or start <= self._low:
            self._low = low
        if low > self.last:
            raise AddressError(self._full, element=node, hint=self.drawing())
        self._used.add(low)
        return low

    def release(self, number: int) -> None:
        """Give a number back; one that is not taken is no mistake."""
        self._used.discard(number)
        self._low = min(self._low, max(number, self.first))

    def free(self) -> Iterator[int]:
        """The free numbers in order."""
        return (number for number in range(self.first, self.last + 1) if number not in self._used)

    def drawing(self) -> str:
        """Which numbers are in use."""
        return f"in use: {format_set(self._used) or 'none'}; from {self.first} to {self.last}"
