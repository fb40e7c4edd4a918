"""Options as properties again, so that two spellings of one thing (JSON, ``key=value``) are the same thing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from qemushim.command.option import Option

#: the key that the first word stands for, where it has none of its own
_HEADS = {
    "-accel": "accel",
    "-audiodev": "driver",
    "-chardev": "backend",
    "-cpu": "model",
    "-device": "driver",
    "-machine": "type",
    "-netdev": "type",
    "-object": "qom-type",
    "-smp": "cpus",
    "-tpmdev": "type",
}
#: options whose value is no list of properties
_PLAIN = frozenset("-uuid -S -L -k -kernel -initrd -append -dtb -bios -incoming -loadvm -runas".split())
#: models with the bus protocol in their name → the same as properties
_PROTOCOLS = {
    "-non-transitional": {"disable-legacy": "on", "disable-modern": "off"},
    "-transitional": {"disable-legacy": "off", "disable-modern": "off"},
}


def properties(option: Option) -> dict[str, str]:
    """Key → value of an option, nested keys joined by dots; a word that has no key stands under its own."""
    text = option.text or ""
    if option.flag in _PLAIN or not text:
        return {"": text} if text else {}
    if text.startswith("{"):
        found = dict(_flatten("", json.loads(text)))
    else:
        found = _pairs(text, _HEADS.get(option.flag, ""))
    if option.flag == "-device":
        _plain_driver(found)
    return found


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else key, inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _flatten(f"{prefix}.{number}", inner)
    elif isinstance(value, bool):
        yield prefix, "on" if value else "off"
    else:
        yield prefix, "null" if value is None else str(value)


def _pairs(text: str, head: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, word in enumerate(_split(text)):
        key, equals, value = word.partition("=")
        if not equals:
            key, value = (head, word) if number == 0 else (word, "on")
        while key in found:  # repeated keys (``cpus=0,cpus=2``) all count
            key += "+"
        found[key] = value
    return found


def _split(text: str) -> Iterator[str]:
    """At single commas; two stand for one that belongs to the value."""
    word = ""
    for number, part in enumerate(text.replace(",,", "\0").split(",")):
        word = part.replace("\0", ",")
        if word or number:
            yield word


def _plain_driver(found: dict[str, str]) -> None:
    driver = found.get("driver", "")
    for suffix, same in _PROTOCOLS.items():
        if driver.endswith(suffix):
            found["driver"] = driver.removesuffix(suffix)
            found.update(same)
            return


def cpu_properties(option: Option) -> dict[str, str]:
    """The same for ``-cpu``: ``+x`` and ``x=on``, ``hv_time`` and ``hv-time`` are one."""
    found = {}
    for key, value in properties(option).items():
        if key[:1] in "+-" and key[1:]:
            key, value = key[1:], "on" if key[0] == "+" else "off"
        found[key.replace("_", "-")] = value
    return found


def canonical(option: Option, only: Iterable[str] | None = None) -> str:
    """One line that two options share exactly where they say the same."""
    given = properties(option)
    kept = {key: given[key] for key in sorted(given) if only is None or key in only}
    words = [f"{key}={value}" if key else value for key, value in kept.items()]
    return " ".join([option.flag, ",".join(words)]).rstrip()


__all__ = ["canonical", "cpu_properties", "properties"]
