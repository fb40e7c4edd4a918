"""What an emulator can do, for people and for programs."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from qemushim.capabilities.guests import domain_types
from qemushim.emulator.flags import ordered
from qemushim.emulator.model import Accelerator, CpuModel, Emulator, Machine

#: columns of a line of names
_WIDTH = 100
_INDENT = 17


def as_data(emulator: Emulator) -> dict[str, Any]:
    """Everything that is known, ready for JSON."""
    return {
        "binary": emulator.binary,
        "version": ".".join(map(str, emulator.version)),
        "package": emulator.package,
        "arch": emulator.arch,
        "variant": emulator.variant,
        "known_by": "help text" if emulator.classic else "QMP",
        "domain_types": domain_types(emulator),
        "accelerators": _data(emulator.accelerators),
        "capabilities": sorted(emulator.flags) if emulator.classic else ordered(emulator.flags),
        "types": sorted(emulator.types),
        "properties": {kind: sorted(names) for kind, names in sorted(emulator.properties.items())},
        "options": {group: sorted(names) for group, names in sorted(emulator.options.items())},
        "tpm": {"models": sorted(emulator.tpm_models), "types": sorted(emulator.tpm_types)},
        "gic": _data(emulator.gic),
        "sev": _data(emulator.sev),
        "sgx": _data(emulator.sgx),
        "hyperv": list(emulator.hyperv),
    }


def _data(value: Any) -> Any:
    """Rows, and rows of rows, by the names of their columns."""
    if not isinstance(value, tuple):
        return value
    names = getattr(value, "_fields", None)
    return dict(zip(names, map(_data, value), strict=True)) if names else [*map(_data, value)]


def as_text(emulator: Emulator) -> str:
    """A report of a screen or two."""
    version = ".".join(map(str, emulator.version))
    lines = [
        emulator.binary or f"QEMU {version} for {emulator.arch}, as it was recorded",
        _row("version", f"{version} {emulator.package}".strip()),
        _row("architecture", emulator.arch + (f" ({emulator.variant})" if emulator.variant else "")),
        _row("known by", "its help text" if emulator.classic else "QMP"),
        _row("domain types", " ".join(domain_types(emulator))),
        _row("capabilities", f"{len(emulator.flags)} of libvirt's names"),
        _row(
            "types", f"{len(emulator.types)} devices, objects, machines, processors" if emulator.types else ""
        ),
        _row("host abilities", _host_abilities(emulator)),
    ]
    for accelerator in emulator.accelerators:
        lines += _cpus(accelerator)
    lines += _machines(emulator)
    return "".join(f"{line}\n" for line in lines if line)


def _row(title: str, text: str) -> str:
    if not text:
        return ""
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=f"  {title:<{_INDENT - 2}}",
        subsequent_indent=" " * _INDENT,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _host_abilities(emulator: Emulator) -> str:
    parts = [f"GIC v{gic.version}" for gic in emulator.gic]
    parts += ["SEV"] if emulator.sev else []
    parts += ["SGX"] if emulator.sgx else []
    parts += [f"Hyper-V: {' '.join(emulator.hyperv)}"] if emulator.hyperv else []
    return ", ".join(parts)


def _cpus(accelerator: Accelerator) -> list[str]:
    """How many models run with the accelerator, and which."""
    models = accelerator.cpus
    if not models:
        return []
    unknown = all(model.blockers is None for model in models)
    usable = [model for model in models if unknown or model.blockers == ()]
    count = f"{len(models)}:" if unknown else f"{len(usable)} of {len(models)} usable:"
    names = " ".join(sorted(map(_cpu_name, usable), key=str.lower))
    return [_row(f"CPUs ({accelerator.name})", f"{count} {names}")]


def _cpu_name(model: CpuModel) -> str:
    return f"{model.name}(deprecated)" if model.deprecated else model.name


def _machines(emulator: Emulator) -> list[str]:
    """A line for each machine type, the one that a document without any gets first."""
    if not emulator.accelerators or not emulator.accelerators[0].machines:
        return []
    first = emulator.accelerators[0]
    rows = [("MACHINE TYPE", "ALIAS", "VCPUS", "")]
    default, *others = first.machines
    machines = [default, *sorted(others, key=_by_family)]
    rows += [(m.name, m.alias, str(m.max_cpus or ""), _notes(m, default)) for m in machines]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return [("  " + "  ".join(map(str.ljust, row, widths))).rstrip() for row in rows]


def _by_family(machine: Machine) -> list[tuple[str, int]]:
    """Sorts by name, the newest of a family first (``pc-q35-10.0``, ``pc-q35-9.2`` …)."""
    words = re.split(r"(\d+)", machine.name)
    return [(word, -int(number)) for word, number in zip(words[::2], [*words[1::2], "0"], strict=True)]


def _notes(machine: Machine, first: Machine) -> str:
    notes = (
        ("libvirt's default", machine is first),
        ("QEMU's default", machine.is_default and machine is not first),
        ("deprecated", machine.deprecated),
    )
    return ", ".join(note for note, holds in notes if holds)
