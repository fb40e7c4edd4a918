"""Sizes, masks and sets as domain documents write them.

Units: https://libvirt.org/formatdomain.html#memory-allocation (``KB`` is 1000 bytes, ``KiB`` and ``k`` are 1024).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

_PREFIXES = "kmgtpe"


def unit_bytes(unit: str) -> int:
    """How many bytes a unit stands for.  Raises ``ValueError`` for an unknown one."""
    low = unit.lower()
    if low in ("b", "byte", "bytes"):
        return 1
    power = _PREFIXES.find(low[:1]) + 1 if low else 0
    if power and low[1:] in ("", "ib"):
        return int(1024**power)
    if power and low[1:] == "b":
        return int(1000**power)
    raise ValueError(f"unknown suffix '{unit}'")


class TooLargeError(ValueError):
    """An amount that 64 bits do not hold."""


def to_bytes(value: str, unit: str | None, default: str) -> int:
    """Bytes of a number and its unit.

    Raises ``ValueError`` where it is no number or the unit is unknown, ``TooLargeError`` where 64 bits do not hold it.
    """
    number = parse_unsigned(value)
    size = number * unit_bytes(unit or default)
    if size >> 64:
        raise TooLargeError(f"value too large: {number}{unit or ''}")
    return size


def to_kib(value: str, unit: str | None = None, default: str = "KiB") -> int:
    """KiB of a number and its unit, rounded up as libvirt does."""
    return -(-to_bytes(value, unit, default) // 1024)


def ip_version(address: str) -> int:
    """4 or 6.  Raises ``ValueError`` for what is no IP address."""
    # few documents have one, and the module is a large one
    from ipaddress import ip_address

    return ip_address(address).version


#: more digits than any 64-bit number has: refused before int() takes its time
_MAX_DIGITS = 24


def parse_integer(raw: str) -> int:
    """A decimal, octal (leading 0) or ``0x`` number as C's strtol(…, 0) reads it.  Raises ``ValueError``."""
    text = raw.strip()
    if len(text) > _MAX_DIGITS:
        raise ValueError(raw)
    return _integer(text)


@lru_cache(4096)
def _integer(text: str) -> int:
    """A document has the same few numbers over and over."""
    digits = text[1:] if text[:1] in "+-" else text
    if not digits or not digits.isascii() or not digits[0].isdigit():
        raise ValueError(text)
    if not digits.isalnum():
        raise ValueError(text)
    number = int(digits[2:], 16) if digits[:2] in ("0x", "0X") else int(digits, 10)
    return -number if text[:1] == "-" else number


def parse_unsigned(raw: str) -> int:
    """The same, refusing negative numbers."""
    number = parse_integer(raw)
    if number < 0:
        raise ValueError(raw)
    return number


def parse_set(text: str) -> list[int]:
    """``0-3,7,^2`` → sorted numbers.  Raises ``ValueError`` where it is no set."""
    numbers: set[int] = set()
    for part in text.replace(" ", "").split(","):
        if not part:
            raise ValueError(text)
        if part[0] == "^":
            numbers.discard(_small(part[1:], text))
            continue
        low, dash, high = part.partition("-")
        first = _small(low, text)
        last = _small(high, text) if dash else first
        if last < first:
            raise ValueError(text)
        numbers.update(range(first, last + 1))
    return sorted(numbers)


def _small(digits: str, text: str) -> int:
    """A member of a set: libvirt's bitmaps of CPUs and NUMA nodes have 2^14 bits."""
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 8 or int(digits) >= 1 << 14:
        raise ValueError(text)
    return int(digits)


def format_set(numbers: Iterable[int]) -> str:
    """Sorted numbers → ``0-3,7``."""
    parts: list[str] = []
    first = last = -2
    for number in [*sorted(numbers), -1]:
        if number == last + 1 and first >= 0:
            last = number
            continue
        if first >= 0:
            parts.append(str(first) if first == last else f"{first}-{last}")
        first = last = number
    return ",".join(parts)


_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")


def canonical_uuid(raw: str) -> str | None:
    """A UUID in lower case with its four hyphens, wherever the document put them; ``None`` where it is none."""
    digits = raw.replace("-", "").replace(" ", "").strip()
    if len(digits) != 32 or not _HEX_DIGITS.issuperset(digits):
        return None
    low = digits.lower()
    return f"{low[:8]}-{low[8:12]}-{low[12:16]}-{low[16:20]}-{low[20:]}"
