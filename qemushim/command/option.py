"""``Option``: one argument of a command line, with the element and the rule that it came from.

Device code gives properties; how they are spelled (JSON, ``key=value``, a bare word) is decided here, and all
quoting is done here: a comma in a path can not break out.  https://www.qemu.org/docs/master/system/invocation.html
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from json.encoder import encode_basestring as quoted
from typing import NamedTuple

from qemushim.document.node import Node

Scalar = str | int | bool | None
Value = Scalar | Mapping[str, "Value"] | list["Value"]
Properties = Mapping[str, Value]
#: repeated keys are allowed where an option takes them (``-numa node,cpus=0,cpus=2``)
Pairs = Iterable[tuple[str, Value]]

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class Raw(str):
    """A value of ``key=value`` that is not escaped, because QEMU takes it to the end of the line."""

    __slots__ = ()


class Option(NamedTuple):
    """An option and its value.  ``text`` is None for an option that stands alone (``-S``)."""

    flag: str
    text: str | None = None
    #: the element of the document that asked for it
    source: Node | None = None
    #: why it is there, in a sentence
    rule: str = ""
    #: what it is made from, as the monitor takes it; ``None`` for an option that no monitor command stands for
    properties: Properties | None = None

    @property
    def tokens(self) -> list[str]:
        return [self.flag] if self.text is None else [self.flag, self.text]


def to_json(properties: Properties) -> str:
    """Compact JSON, keys in the order given, text beyond ASCII as it is."""
    # nearly all values are plain texts, for which the encoder's own start takes longer than its work
    parts = [
        f"{quoted(key)}:{quoted(value) if value.__class__ is str else _json(value)}"
        for key, value in properties.items()
    ]
    return "{" + ",".join(parts) + "}"


def _json(value: Value) -> str:
    if value is True or value is False:
        return "true" if value else "false"
    if value.__class__ is int:
        return str(value)
    return _ENCODER.encode(value)


def escape_commas(text: str) -> str:
    """QEMU's own escape: a comma that belongs to the value is written twice."""
    return text.replace(",", ",,")


def key_values(pairs: Properties | Pairs, head: str = "") -> str:
    """``head,key=value,…``: on/off for booleans, commas doubled, nested values by dotted keys, None left out."""
    items = pairs.items() if isinstance(pairs, Mapping) else pairs
    parts = [escape_commas(head)] if head else []
    for key, value in items:
        _append(parts, key, value)
    return ",".join(parts)


def _append(parts: list[str], key: str, value: Value) -> None:
    if value is None:
        return
    if value is True or value is False:
        parts.append(f"{key}={'on' if value else 'off'}")
    elif isinstance(value, Raw):
        parts.append(f"{key}={value}")
    elif isinstance(value, str | int):
        parts.append(f"{key}={escape_commas(str(value))}")
    elif isinstance(value, Mapping):
        for inner, deeper in value.items():
            _append(parts, f"{key}.{inner}", deeper)
    else:
        for number, deeper in enumerate(value):
            _append(parts, f"{key}.{number}", deeper)


def compact(properties: Properties) -> dict[str, Value]:
    """The properties without those that are None (absent)."""
    if None not in properties.values():
        return dict(properties)
    return {key: value for key, value in properties.items() if value is not None}
