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
    if number >> 64:
        raise ValueError(value)
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


def plain_address(address: str) -> str:
    """An IP address as it is usually written: ``10.2`` is ``10.0.0.2``.  Raises ``ValueError`` for what is none."""
    if ":" in address:
        ip_version(address)
        return address
    *first, last = (parse_unsigned(part, 0) for part in address.split("."))
    if len(first) > 3 or any(part > 255 for part in first) or last >> 8 * (4 - len(first)):
        raise ValueError(address)
    parts = (*first, *last.to_bytes(4 - len(first), "big"))
    return ".".join(map(str, parts))


#: more digits than any 64-bit number has: refused before int() takes its time
_MAX_DIGITS = 24
#: what C's isspace() knows
_BLANKS = " \t\n\v\f\r"


def parse_integer(raw: str, base: int = 10) -> int:
    """A number as C's strtol reads it: blanks may stand before it, nothing behind it.  Raises ``ValueError``.

    ``base`` 0: octal with a leading 0, hexadecimal with ``0x``; 16: hexadecimal, with ``0x`` or without.
    """
    if len(raw) > _MAX_DIGITS:
        raw = _shortened(raw)
    return _integer(raw, base)


def _shortened(raw: str) -> str:
    """Without the blanks and zeros that a number may begin with.  Raises ``ValueError`` where it still is too long."""
    text = raw.lstrip(_BLANKS)
    text = text[:2] + text[2:].lstrip("0") if text[:1] in "+-0" else text
    if len(text) > _MAX_DIGITS:
        raise ValueError(raw[:_MAX_DIGITS])
    return text


@lru_cache(4096)
def _integer(raw: str, base: int) -> int:
    """A document has the same few numbers over and over."""
    text = raw.lstrip(_BLANKS)
    digits = text[1:] if text[:1] in ("+", "-") else text
    if base in (0, 16) and digits[:2] in ("0x", "0X"):
        base, digits = 16, digits[2:]
    elif base == 0:
        base = 8 if digits[:1] == "0" else 10
    if not digits.isascii() or not digits.isalnum():
        raise ValueError(raw)
    number = int(digits, base)
    return -number if text[:1] == "-" else number


def parse_unsigned(raw: str, base: int = 10) -> int:
    """The same, refusing negative numbers."""
    number = parse_integer(raw, base)
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
