"""Whether the arguments of a monitor command are what QEMU says of itself that it takes.

https://www.qemu.org/docs/master/devel/qapi-code-gen.html#client-json-protocol-introspection
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

#: JSON type of the schema → Python's
_BUILTIN: dict[str, tuple[type, ...]] = {
    "boolean": (bool,),
    "int": (int,),
    "null": (type(None),),
    "number": (int, float),
    "string": (str,),
}


class Schema:
    """The reply to ``query-qmp-schema``."""

    def __init__(self, entries: list[dict[str, Any]]) -> None:
        self.by_name: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in entries}

    @classmethod
    def recorded(cls, path: Path) -> Schema:
        """The schema in a recorded conversation."""
        return _recorded(path)

    def problems(self, command: str, arguments: Mapping[str, Any]) -> list[str]:
        """What QEMU would refuse of a command, in words."""
        entry = self.by_name.get(command)
        if entry is None or entry["meta-type"] != "command":
            return [f"there is no command {command}"]
        if command == "device_add":
            # its arguments are the device's own properties, of which the schema knows nothing
            return [] if isinstance(arguments.get("driver"), str) else ["device_add: no driver"]
        return list(self._check(entry["arg-type"], dict(arguments), command))

    def _check(self, name: str, value: Any, where: str) -> Iterator[str]:
        entry = self.by_name[name]
        kind = entry["meta-type"]
        if kind == "builtin":
            wanted = _BUILTIN.get(entry["json-type"])
            if wanted is not None and (type(value) not in wanted):
                yield f"{where}: {value!r} is no {entry['json-type']}"
        elif kind == "enum":
            known = [member["name"] for member in entry.get("members", ())] or entry["values"]
            if value not in known:
                yield f"{where}: {value!r} is none of {known}"
        elif kind == "array":
            if not isinstance(value, list):
                yield f"{where}: {value!r} is no list"
                return
            for item in value:
                yield from self._check(entry["element-type"], item, f"{where}[]")
        elif kind == "alternate":
            if not any(not list(self._check(m["type"], value, where)) for m in entry["members"]):
                yield f"{where}: {value!r} is none of its kinds"
        elif kind == "object":
            yield from self._object(entry, value, where)

    def _object(self, entry: Mapping[str, Any], value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{where}: {value!r} is no object"
            return
        members = {member["name"]: member for member in entry["members"]}
        if "tag" in entry:
            chosen = value.get(entry["tag"])
            variant = next((v["type"] for v in entry.get("variants", ()) if v["case"] == chosen), None)
            if variant is not None:
                members.update((member["name"], member) for member in self.by_name[variant]["members"])
                inner = self.by_name[variant]
                if "tag" in inner:
                    yield from self._object(inner, {k: v for k, v in value.items() if k in members}, where)
        for name, member in members.items():
            if name not in value and "default" not in member:
                yield f"{where}: no {name}"
        for name, item in value.items():
            if name not in members:
                yield f"{where}: unknown {name}"
            else:
                yield from self._check(members[name]["type"], item, f"{where}/{name}")


@cache
def _recorded(path: Path) -> Schema:
    decoder, text, at = json.JSONDecoder(), path.read_text(), 0
    while at < len(text):
        document, at = decoder.raw_decode(text, at)
        if isinstance(document.get("return"), list) and any(
            "meta-type" in e for e in document["return"][:1] if isinstance(e, dict)
        ):
            return Schema(document["return"])
        at += len(text[at:]) - len(text[at:].lstrip())
    raise ValueError(f"{path}: no reply to query-qmp-schema")
