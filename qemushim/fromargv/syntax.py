"""QEMU's own syntax: ``key=value`` lists with doubled commas and an implied first key, JSON, dotted keys, sizes.

https://www.qemu.org/docs/master/system/invocation.html and the section *QAPI* of the manual (dotted keys).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from qemushim.errors import ConfigError

Scalar = str | int | float | bool | None
Pair = tuple[str, Scalar]

#: deeper than any option of QEMU nests; what is deeper is an attack on the parser
MAX_DEPTH = 64
#: suffix → power of 1024
_SUFFIXES = {"b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}
_TRUE = frozenset({"on", "yes", "true", "y"})
_FALSE = frozenset({"off", "no", "false", "n"})
_MAX_DIGITS = 24


class UnreadableError(Exception):
    """An argument says what a domain document can not: the reader gives it back as it was, with the reason."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an argument stands: its number among the words (the emulator is 0), its line in the text (0: none)."""

    index: int = 0
    line: int = 0


#: what has no place in the command
NOWHERE = Place()


# -- splitting --------------------------------------------------------------------------------------


def split_commas(text: str) -> list[str]:
    """The parts between single commas; a doubled one is a comma of the value."""
    # no argument of a process has a NUL in it
    return [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]


def key_value_pairs(text: str, implied: str = "") -> list[Pair]:
    """``a,b=1,c,noc``: the first bare word belongs to ``implied``; other bare words are switches.

    ``noc`` is ``c=off`` only where QEMU has no option that begins with ``no``, which nobody but QEMU knows: it is left
    as it is, ``noc=on``.
    """
    pairs: list[Pair] = []
    for number, part in enumerate(split_commas(text)):
        key, equals, value = part.partition("=")
        if not equals:
            if not part:
                continue
            if number == 0 and implied:
                pairs.append((implied, part))
            else:
                pairs.append((part, "on"))
        elif number == 0 and implied and not _is_key(key):
            # a path with an equals sign in it
            pairs.append((implied, part))
        else:
            pairs.append((key, value))
    return pairs


def _is_key(text: str) -> bool:
    return bool(text) and all(c.isalnum() or c in "._-:[]" for c in text)


def json_pairs(text: str, what: str, place: Place) -> list[Pair]:
    """A JSON object, flattened to dotted keys.  Raises ``ConfigError`` where it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as problem:
        column = f" at character {problem.pos + 1}" if isinstance(problem, json.JSONDecodeError) else ""
        reason = problem.msg if isinstance(problem, json.JSONDecodeError) else "it nests too deeply"
        raise wrong(f"{what}: the JSON is broken{column}: {reason}", place) from None
    if not isinstance(found, dict):
        raise wrong(f"{what}: a JSON object is needed", place)
    return list(_flatten(found, "", what, place, 0))


def _flatten(value: object, key: str, what: str, place: Place, depth: int) -> Iterator[Pair]:
    if depth > MAX_DEPTH:
        raise wrong(f"{what}: the JSON nests too deeply", place)
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flatten(inner, f"{key}.{name}" if key else str(name), what, place, depth + 1)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _flatten(inner, f"{key}.{number}", what, place, depth + 1)
    else:
        yield key, value  # type: ignore[misc]


def wrong(message: str, place: Place, hint: str = "") -> ConfigError:
    """An error that says where: the line of the text, and which argument."""
    where = f"argument {place.index}: " if place.index else ""
    return ConfigError(f"{where}{message}", line=place.line, hint=hint)


# -- values -----------------------------------------------------------------------------------------


def parse_size(text: str, default: str = "b") -> int:
    """Bytes of ``4G``, ``512`` (of the default suffix), ``1.5G``, ``0x1000``.  Raises ``ValueError``."""
    raw = text.strip().lower().removesuffix("ib")
    if len(raw) > _MAX_DIGITS or not raw:
        raise ValueError(text)
    if raw.startswith("0x"):
        return int(raw, 16)
    suffix = default
    if raw[-1] in _SUFFIXES:
        raw, suffix = raw[:-1], raw[-1]
    whole, _, fraction = raw.partition(".")
    if not (whole + fraction).isascii() or not (whole + fraction).isdigit():
        raise ValueError(text)
    scale: int = 1024 ** _SUFFIXES[suffix]
    size = int(whole or "0") * scale + (int(fraction) * scale // 10 ** len(fraction) if fraction else 0)
    if size >= 1 << 64:
        raise ValueError(text)
    return size


def parse_number(text: str) -> int:
    """A number as QEMU reads it: decimal, ``0x`` hexadecimal.  Raises ``ValueError``."""
    raw = text.strip()
    if len(raw) > _MAX_DIGITS:
        raise ValueError(text)
    return int(raw, 16) if raw.lower().startswith(("0x", "-0x")) else int(raw, 10)


@dataclass(slots=True, eq=False)
class Bag:
    """The properties of one argument.  What is read is taken out, so what is left was not understood."""

    #: what the argument is called in errors (``-device virtio-net-pci``)
    what: str
    place: Place
    pairs: list[Pair]
    #: written as JSON: values have types, and libvirt or a program wrote it
    is_json: bool = False
    _all: list[Pair] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._all = list(self.pairs)

    def reset(self) -> None:
        """As if nothing had been read."""
        self.pairs = list(self._all)

    @property
    def keys(self) -> list[str]:
        """The names of what is left."""
        return [key for key, _ in self.pairs]

    def has(self, key: str) -> bool:
        return any(name == key for name, _ in self.pairs)

    def peek(self, key: str) -> str | None:
        """The text of a property that stays; the last of several counts, as for QEMU."""
        for name, value in reversed(self.pairs):
            if name == key and value is not None:
                return as_text(value)
        return None

    def was(self, key: str) -> str | None:
        """The text that a property had before anything was read."""
        for name, value in reversed(self._all):
            if name == key and value is not None:
                return as_text(value)
        return None

    def take(self, *keys: str) -> str | None:
        """The text of a property under the first of its names that it has."""
        found = None
        for key in keys:
            value = self.peek(key)
            if value is not None or self.has(key):
                self.drop(key)
            if found is None:
                found = value
        return found

    def set(self, key: str, value: Scalar) -> None:
        """Another value of a property, as if it had stood there."""
        self.drop(key)
        self.pairs.append((key, value))
        self._all = [pair for pair in self._all if pair[0] != key] + [(key, value)]

    def add(self, key: str, value: Scalar) -> None:
        """One more value of a property that may have several."""
        self.pairs.append((key, value))
        self._all.append((key, value))

    def drop(self, *keys: str) -> None:
        """Take properties out whose value follows from others."""
        self.pairs = [pair for pair in self.pairs if pair[0] not in keys]

    def texts(self, key: str) -> list[str]:
        """Every value of a property that may be given several times, or as a list."""
        found: list[str] = []
        rest: list[Pair] = []
        for name, value in self.pairs:
            base, _, number = name.partition(".")
            if name == key or (base == key and number.removesuffix(".str").isdigit()):
                found.append(as_text(value))
            else:
                rest.append((name, value))
        self.pairs = rest
        return found

    def below(self, prefix: str) -> list[Pair]:
        """Properties ``prefix.…``, taken out, without the prefix."""
        start = f"{prefix}."
        found = [(name[len(start) :], value) for name, value in self.pairs if name.startswith(start)]
        self.pairs = [pair for pair in self.pairs if not pair[0].startswith(start)]
        return found

    def switch(self, *keys: str) -> bool | None:
        """A property that is on or off; ``None`` where it is not given, or left to ``auto``."""
        text = self.take(*keys)
        if text is None or text == "auto":
            return None
        if text.lower() in _TRUE:
            return True
        if text.lower() in _FALSE:
            return False
        raise wrong(f"{self.what}: {keys[0]}={text}: on or off is needed", self.place)

    def number(self, *keys: str) -> int | None:
        text = self.take(*keys)
        try:
            return None if text is None else parse_number(text)
        except ValueError:
            raise wrong(f"{self.what}: {keys[0]}={text}: a number is needed", self.place) from None

    def size(self, *keys: str, default: str = "b") -> int | None:
        """Bytes."""
        text = self.take(*keys)
        try:
            return None if text is None else parse_size(text, default)
        except ValueError:
            raise wrong(
                f"{self.what}: {keys[0]}={text}: a size such as 512M or 4G is needed", self.place
            ) from None


def as_text(value: Scalar) -> str:
    """A value as ``key=value`` would have it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else str(value)


def properties_of(text: str | None, what: str, place: Place, implied: str = "") -> Bag:
    """The properties of an argument in either syntax."""
    if text is not None and text.lstrip().startswith("{"):
        return Bag(what, place, json_pairs(text, what, place), is_json=True)
    return Bag(what, place, key_value_pairs(text or "", implied))
