"""Reading libvirt's ``cpu_map`` files into the plain data that a ``CpuMap`` is made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qemushim.document.node import Node
from qemushim.document.parse import parse
from qemushim.errors import ConfigError

#: attributes of ``<cpuid>`` and ``<msr>`` that hold a mask
_REGISTERS = ("eax", "ebx", "ecx", "edx")


def read(files: Mapping[str, str]) -> dict[str, Any]:
    """What the files say: file name → XML text, ``index.xml`` among them.  Raises ``ConfigError``."""
    data = _Reader(files).data()
    if "x86" in data:
        data["x86"] = _x86_rows(data["x86"])
    return data


class _Reader:
    """``index.xml`` and what it includes, as plain data."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = files

    def data(self) -> dict[str, Any]:
        found = {}
        for arch in self.open("index.xml").all("arch"):
            elements = list(self.elements(arch))
            found[arch.get("name") or ""] = {
                "vendors": {
                    _name(e): e.get("string") or e.get("value") for e in elements if e.tag == "vendor"
                },
                "features": [_feature(e) for e in elements if e.tag == "feature"],
                "models": [_model(e) for e in elements if e.tag == "model"],
            }
        return found

    def open(self, name: str) -> Node:
        if name not in self.files:
            raise ConfigError(f"CPU map: no file {name}", file=name)
        return parse(self.files[name], name)

    def elements(self, parent: Node) -> Iterator[Node]:
        """Vendors, features and models below an element, included files in their place."""
        for node in parent.children:
            if node.tag == "include":
                yield from self.elements(self.open(node.get("filename") or ""))
            elif node.tag == "group":
                yield from self.elements(node)
            elif node.tag in ("vendor", "feature", "model"):
                yield node


def _name(node: Node) -> str:
    return node.get("name") or ""


def _feature(node: Node) -> dict[str, Any]:
    item: dict[str, Any] = {"name": _name(node)}
    bits = []
    for part in node.children:
        if part.tag == "cpuid":
            where = f"{_number(part, 'eax_in'):x}.{_number(part, 'ecx_in'):x}"
        elif part.tag == "msr":
            where = f"m{_number(part, 'index'):x}"
        else:
            continue
        bits += [(f"{where}.{r}", _number(part, r)) for r in _REGISTERS if _number(part, r)]
    if bits:
        item["bits"] = bits
    if node.get("migratable") == "no":
        item["stays"] = True
    return item


def _model(node: Node) -> dict[str, Any]:
    item: dict[str, Any] = {"name": _name(node)}
    for key, tag in (("base", "model"), ("vendor", "vendor")):
        child = node.child(tag)
        if child is not None:
            item[key] = _name(child)
    decode = node.child("decode")
    if decode is not None:
        item.update({side: False for side in ("host", "guest") if decode.get(side) == "off"})
    if node.value("check/@partial") == "compat":
        item["compare"] = True
    signatures = [
        (_number(s, "family"), _number(s, "model"), _steppings(s.get("stepping") or ""))
        for s in node.all("signature")
    ]
    pvr = [(_number(p, "value"), _number(p, "mask", 0xFFFFFFFF)) for p in node.all("pvr")]
    features: dict[str, list[str]] = {}
    for child in node.all("feature"):
        kind = next((k for k in ("removed", "added") if child.get(k) == "yes"), "features")
        features.setdefault(kind, []).append(_name(child))
    item.update({key: value for key, value in (("signatures", signatures), ("pvr", pvr)) if value})
    return {**item, **features}


def _number(node: Node, name: str, default: int = 0) -> int:
    return int(node.get(name) or str(default), 0)


def _steppings(text: str) -> list[int]:
    """``0-4`` or ``3,7`` → numbers; nothing for any."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        low, _, high = part.partition("-")
        found += range(int(low), int(high or low) + 1)
    return found


# -- rows of the x86 map -----------------------------------------------------------------------------------


def _x86_rows(data: Mapping[str, Any]) -> dict[str, Any]:
    """Features and models as rows, with what a model takes from the one that it is based on; bits are hexadecimal."""
    places: dict[str, int] = {}
    bits: dict[str, int] = {}
    for item in data["features"]:
        bits[item["name"]] = sum(
            mask << places.setdefault(register, 32 * len(places)) for register, mask in item.get("bits", ())
        )
    known = 0
    for name, own in bits.items():
        if own.bit_count() != 1 or own & known:
            raise ConfigError(f"CPU map: feature {name} is not one bit, which is its own")
        known |= own
    rows: dict[str, list[Any]] = {}
    for item in data["models"]:
        rows[item["name"]] = _model_row(item, bits, rows)
    return {
        "vendors": data["vendors"],
        "features": [
            [item["name"], *_without_zeros(bits[item["name"]]), not item.get("stays", False)]
            for item in data["features"]
        ],
        "models": [
            [name, f"{own:x}", *others, " ".join(removed), " ".join(added), alias]
            for name, own, *others, removed, added, alias in rows.values()
        ],
    }


def _without_zeros(bits: int) -> tuple[str, int]:
    """A number in hexadecimal without the zeros at its end, and how many these are (bits)."""
    zeros = max((bits & -bits).bit_length() - 1, 0)
    return f"{bits >> zeros:x}", zeros


def _model_row(item: Mapping[str, Any], bits: Mapping[str, int], rows: Mapping[str, list[Any]]) -> list[Any]:
    base = rows.get(item.get("base", ""), ["", 0, "", [], True, True, False, [], [], ""])
    own = base[1]
    for name in item.get("features", ()):
        own |= bits[name]
    signatures = item.get("signatures", [])
    differs = any(key in item for key in ("features", "removed", "added", "signatures"))
    return [
        item["name"],
        own,
        item.get("vendor", base[2]),
        signatures or base[3],
        item.get("host", True),
        item.get("guest", True),
        item.get("compare", False),
        [*base[7], *item.get("removed", ())],
        [*base[8], *item.get("added", ())],
        "" if differs else base[0],
    ]
