"""``CpuMap``: which features, vendors and models of CPUs libvirt knows, from its ``cpu_map`` files.

The data of an x86 CPU (what CPUID and the feature MSRs say) is one whole number, a bit of the number for each
bit of each register that a feature of the map speaks of.  So “has it all”, “what is missing” and “what is
more” are one operation on whole numbers each.
"""

# types are given as they are: a NamedTuple compiles each that is text

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from typing import Any, NamedTuple

#: the map that comes with the package, made by ``tools/record_cpumap.py``
BUNDLED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cpumap.dat")

#: a table with nothing in it
_NONE: Mapping[str, str] = {}


class Signature(NamedTuple):
    """CPUs of a model: family, model and the steppings."""

    family: int
    model: int
    steppings: frozenset[int] | None = None

    def matches(self, family: int, model: int, stepping: int) -> bool:
        same = self.family == family and self.model == model
        return same and (self.steppings is None or stepping in self.steppings)


class Feature(NamedTuple):
    """One x86 feature of the map."""

    name: str
    #: the bit of the CPU's data that says whether it is there
    bits: int
    #: a guest that has it can migrate
    migratable: bool = True


class Model(NamedTuple):
    """One x86 model of the map."""

    name: str
    #: what it consists of, without what was ``added`` or ``removed`` later
    bits: int
    #: name of the vendor in the map, ``""`` where any will do
    vendor: str = ""
    signatures: tuple[Signature, ...] = ()
    #: whether a host's or a guest's CPU may be described by it
    host: bool = True
    guest: bool = True
    #: a partial check compares with the map, rather than with what QEMU says
    compare: bool = False
    #: features that it lost and gained after its first release
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    #: the model of which it is another name, ``""``: none
    alias_of: str = ""


class X86Map(NamedTuple):
    """What the map knows of x86."""

    #: name → what CPUID says
    vendors: Mapping[str, str]
    #: in the order of the map
    features: Mapping[str, Feature]
    models: Mapping[str, Model]
    unmigratable: frozenset[str] = frozenset()
    #: model → its versioned name (``486`` → ``486-v1``), for those that have one
    canonical: Mapping[str, str] = _NONE

    def bits(self, names: Iterable[str]) -> int:
        """What CPUs with all these features have; names that the map does not have count for nothing."""
        total = 0
        for name in names:
            feature = self.features.get(name)
            if feature is not None:
                total |= feature.bits
        return total

    def names(self, bits: int) -> list[str]:
        """The features that make up ``bits``, in the order of the map."""
        found = []
        for feature in self.features.values():
            if not bits:
                break
            if feature.bits & bits:
                found.append(feature.name)
                bits ^= feature.bits
        return found


class Ppc64Map(NamedTuple):
    """What the map knows of POWER."""

    #: model → (value, mask) of the processor version registers
    models: Mapping[str, tuple[tuple[int, int], ...]]
    #: model → name of its vendor
    vendors: Mapping[str, str]


class ArmMap(NamedTuple):
    """What the map knows of ARM: names alone."""

    features: frozenset[str]
    models: tuple[str, ...]


class CpuMap:
    """The CPU map of one libvirt; every architecture is unpacked when it is first asked for."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data
        #: results that depend on this map, by purpose (``machine.cpuhost``)
        self.memory: dict[Any, Any] = {}

    @classmethod
    def read(cls, files: Mapping[str, str]) -> "CpuMap":
        """The map of a folder ``cpu_map``: file name → XML text, ``index.xml`` among them.

        Raises ``ConfigError`` where a file is missing or malformed.
        """
        from qemushim.machine.cpumapfile import read

        return cls(read(files))

    @classmethod
    def load(cls, packed: bytes) -> "CpuMap":
        """The map from what ``dump`` made."""
        return cls(json.loads(zlib.decompress(packed)))

    @classmethod
    def bundled(cls) -> "CpuMap":
        """The map of libvirt 11.3 that comes with this package, read once."""
        return _bundled()

    def dump(self) -> bytes:
        """The map in a compact form."""
        return zlib.compress(json.dumps(self._data, separators=(",", ":")).encode(), 9)

    @cached_property
    def x86(self) -> X86Map:
        return _unpack_x86(self._data["x86"])

    @cached_property
    def ppc64(self) -> Ppc64Map:
        models = self._data["ppc64"]["models"]
        return Ppc64Map(
            {m["name"]: tuple((value, mask) for value, mask in m["pvr"]) for m in models},
            {m["name"]: m["vendor"] for m in models if "vendor" in m},
        )

    @cached_property
    def arm(self) -> ArmMap:
        data = self._data["arm"]
        return ArmMap(
            frozenset(f["name"] for f in data["features"]), tuple(m["name"] for m in data["models"])
        )


@cache
def _bundled() -> "CpuMap":
    with open(BUNDLED, "rb") as file:
        return CpuMap.load(file.read())


# -- unpacking ---------------------------------------------------------------------------------------------


def _unpack_x86(data: Mapping[str, Any]) -> X86Map:
    """The map of the rows that ``cpumapfile`` makes: one for each ``Feature`` and each ``Model``, by their fields."""
    features = {
        name: Feature(name, int(bits, 16) << zeros, migrates)
        for name, bits, zeros, migrates in data["features"]
    }
    models = {row[0]: _unpack_model(*row) for row in data["models"]}
    return X86Map(
        dict(data["vendors"]),
        features,
        models,
        unmigratable=frozenset(f.name for f in features.values() if not f.migratable),
        canonical={m.alias_of: m.name for m in models.values() if m.alias_of},
    )


def _unpack_model(name: str, bits: str, vendor: str, signatures: list[Any], *others: Any) -> Model:
    host, guest, compare, removed, added, alias_of = others
    known = tuple(
        Signature(family, model, frozenset(steppings) if steppings else None)
        for family, model, steppings in signatures
    )
    return Model(
        name,
        int(bits, 16),
        vendor,
        known,
        host,
        guest,
        compare,
        tuple(removed.split()),
        tuple(added.split()),
        alias_of,
    )
