"""Snapshot: everything that is known of one emulator, in one compact file.

A line with the number of the format, then zlib-compressed JSON (whose checksum finds damage).  The rows of
machines, CPUs and properties are in the order of the fields of their classes in ``model.py``: a field more at
the end keeps the format, any other change makes a new number.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

from qemushim.emulator.model import (
    Accelerator,
    CpuModel,
    Emulator,
    Gic,
    HostCpu,
    HostCpuProperty,
    Machine,
    Sev,
    Sgx,
)
from qemushim.errors import EmulatorError

FORMAT = 1
SUFFIX = ".snapshot"

_MAGIC = b"qemushim emulator snapshot "
#: a snapshot holds some 200 KiB; one that unpacks to more than this many bytes is none
_LIMIT = 32 << 20

_PLAIN = (
    "arch",
    "binary",
    "package",
    "variant",
    "classic",
    "is_kvm_fork",
    "kvm_version",
    "microcode",
    "kernel_version",
)
_SETS = ("flags", "types", "schema", "migration", "tpm_models", "tpm_types")
_TABLES = ("properties", "options")


def is_snapshot(data: bytes) -> bool:
    """Whether the bytes claim to be a snapshot, of any format."""
    return data.startswith(_MAGIC)


def dump(emulator: Emulator) -> bytes:
    """The snapshot of an emulator; the same emulator always gives the same bytes."""
    content: dict[str, Any] = {name: getattr(emulator, name) for name in _PLAIN if getattr(emulator, name)}
    content["version"] = emulator.version
    content["hyperv"] = emulator.hyperv
    for name in _SETS:
        content[name] = sorted(getattr(emulator, name))
    for name in _TABLES:
        content[name] = {key: sorted(names) for key, names in sorted(getattr(emulator, name).items())}
    content["accelerators"] = [_accelerator_row(accelerator) for accelerator in emulator.accelerators]
    content["gic"] = emulator.gic
    content["sev"] = emulator.sev
    content["sgx"] = emulator.sgx
    text = json.dumps(content, separators=(",", ":"), sort_keys=True)
    return b"%s%d\n%s" % (_MAGIC, FORMAT, zlib.compress(text.encode(), 9))


def load(data: bytes) -> Emulator:
    """The emulator of a snapshot; ``EmulatorError`` for all but an undamaged one of this format."""
    if not is_snapshot(data):
        raise EmulatorError("not a snapshot of an emulator")
    number, _, packed = data[len(_MAGIC) :].partition(b"\n")
    if number != b"%d" % FORMAT:
        shown = number[:20].decode(errors="replace")
        raise EmulatorError(
            f"snapshot has format {shown}, this program reads format {FORMAT}", hint="record it again"
        )
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(packed, _LIMIT)
        if not unpacker.eof:
            raise EmulatorError("damaged snapshot: it ends too early, or never", hint="record it again")
        return _emulator(json.loads(text))
    except (zlib.error, ValueError, TypeError, KeyError, AttributeError) as problem:
        raise EmulatorError(f"damaged snapshot: {problem}", hint="record it again") from problem


def _accelerator_row(accelerator: Accelerator) -> list[Any]:
    host = accelerator.host_cpu
    return [
        accelerator.name,
        accelerator.machines,
        accelerator.cpus,
        host and [host.model, host.properties, host.migratability, host.deprecated],
    ]


def _emulator(content: dict[str, Any]) -> Emulator:
    values: dict[str, Any] = {name: content[name] for name in _PLAIN if name in content}
    major, minor, micro = content["version"]
    values["version"] = (int(major), int(minor), int(micro))
    values["hyperv"] = tuple(content["hyperv"])
    for name in _SETS:
        values[name] = frozenset(_list(content[name]))
    for name in _TABLES:
        values[name] = {key: frozenset(_list(names)) for key, names in content[name].items()}
    values["accelerators"] = tuple(_accelerator(*row) for row in content["accelerators"])
    values["gic"] = tuple(Gic(*row) for row in content["gic"])
    if content["sev"]:
        values["sev"] = Sev(*content["sev"])
    if content["sgx"]:
        flc, sgx1, sgx2, size, sections = content["sgx"]
        values["sgx"] = Sgx(flc, sgx1, sgx2, size, tuple((node, part) for node, part in sections))
    return Emulator(**values)


def _accelerator(name: str, machines: list[Any], cpus: list[Any], host: list[Any] | None) -> Accelerator:
    host_cpu = None
    if host:
        model, properties, migratability, deprecated = host
        rows = tuple(HostCpuProperty(*row) for row in properties)
        host_cpu = HostCpu(model, rows, migratability, tuple(deprecated))
    return Accelerator(
        name, tuple(Machine(*row) for row in machines), tuple(_cpu(*row) for row in cpus), host_cpu
    )


def _cpu(name: str, typename: str, blockers: list[str] | None, deprecated: bool) -> CpuModel:
    return CpuModel(name, typename, None if blockers is None else tuple(blockers), deprecated)


def _list(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__} where a list of names belongs")
    return value
