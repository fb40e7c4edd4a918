"""What a binary is asked over QMP, and in which order: that of libvirt 11.3, so recordings and live answers
are alike.

A run is a generator: it yields commands and looks at the ``Answers`` that the caller collects from the
replies in between.  No process is run here; ``probe.py`` does that, and a recording can be walked through
just as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qemushim.emulator.flags import FACTS, Kind
from qemushim.emulator.qmp import Answers, Message

#: device types whose properties are asked for, each with the flag that it depends on
DEVICES = (
    ("virtio-blk-pci", ""),
    ("virtio-net-pci", "virtio-net"),
    ("virtio-scsi-pci", "virtio-scsi-pci"),
    ("virtio-blk-ccw", "virtio-ccw"),
    ("virtio-net-ccw", "virtio-net"),
    ("virtio-scsi-ccw", "virtio-scsi-pci"),
    ("vfio-pci", "vfio-pci"),
    ("scsi-hd", ""),
    ("ide-hd", ""),
    ("PIIX4_PM", ""),
    ("usb-redir", "usb-redir"),
    ("usb-storage", "usb-storage"),
    ("kvm-pit", ""),
    ("VGA", "VGA"),
    ("vmware-svga", "vmware-svga"),
    ("qxl", "qxl"),
    ("virtio-gpu-pci", "virtio-gpu"),
    ("virtio-gpu-device", "virtio-gpu"),
    ("ICH9-LPC", ""),
    ("virtio-balloon-pci", ""),
    ("virtio-balloon-ccw", ""),
    ("virtio-balloon-device", ""),
    ("intel-iommu", "intel-iommu"),
    ("spapr-pci-host-bridge", "spapr-pci-host-bridge"),
    ("virtio-gpu-ccw", "virtio-gpu-ccw"),
    ("mch", "mch"),
    ("nvdimm", "nvdimm"),
    ("pcie-root-port", "pcie-root-port"),
    ("usb-host", ""),
    ("vhost-user-fs-device", "vhost-user-fs"),
    ("virtio-mem-pci", "virtio-mem-pci"),
    ("virtio-iommu-pci", "virtio-iommu-pci"),
    ("virtio-blk-ccw", "virtio-ccw"),
)

#: the same for objects
OBJECTS = (
    ("memory-backend-file", ""),
    ("memory-backend-memfd", "memory-backend-memfd"),
    ("max-x86_64-cpu", "x86-max-cpu"),
    ("max-arm-cpu", "arm-max-cpu"),
)

#: families of machine types with properties of interest
FAMILIES = ("pseries", "virt")

X86 = ("x86_64", "i686")
ARM = ("aarch64", "armv6l", "armv7l")


def first_run(answers: Answers) -> Iterator[Message]:
    """The commands of the run with hardware acceleration, where there is any."""
    for name in ("qmp_capabilities", "query-version", "query-target", "query-qmp-schema", "query-kvm"):
        yield ask(name)
    yield ask("qom-list-types")
    for kind, flag in DEVICES:
        if not flag or _has_type(answers, flag):
            yield ask("device-list-properties", typename=kind)
    for kind, flag in OBJECTS:
        if not flag or _has_type(answers, flag):
            yield ask("qom-list-properties", typename=kind)
    yield ask("query-machines")
    yield from _machine_properties(answers)
    if _has_command(answers, "query-cpu-definitions"):
        yield ask("query-cpu-definitions")
    for name in (
        "query-tpm-models",
        "query-tpm-types",
        "query-command-line-options",
        "query-migrate-capabilities",
    ):
        yield ask(name)
    yield from _host_abilities(answers)
    # without acceleration QEMU refuses these: such a binary has no host CPU
    yield from _expansions(answers, "host")
    if answers.target in X86 + ARM and _has_command(answers, "query-cpu-model-expansion"):
        yield expand("full", "host", {"migratable": False, "hv-passthrough": True})


def wants_second_run(answers: Answers, *, hvf: bool = False) -> bool:
    """Whether the first run was accelerated (``hvf``: by macOS, which QMP does not tell), and need not be."""
    return (answers.kvm or hvf) and _has_type(answers, "tcg")


def second_run(answers: Answers) -> Iterator[Message]:
    """The commands of the run without acceleration."""
    yield ask("qmp_capabilities")
    if _has_command(answers, "query-cpu-definitions"):
        yield ask("query-cpu-definitions")
    yield from _expansions(answers, "max")
    yield ask("query-machines")


def ask(name: str, **arguments: Any) -> Message:
    return {"execute": name, "arguments": arguments} if arguments else {"execute": name}


def expand(kind: str, model: str, properties: dict[str, bool] | None = None) -> Message:
    """``query-cpu-model-expansion`` of a model with properties."""
    wanted: dict[str, Any] = {"name": model}
    if properties:
        wanted["props"] = properties
    return ask("query-cpu-model-expansion", type=kind, model=wanted)


def _machine_properties(answers: Answers) -> Iterator[Message]:
    machines = answers.run.machines
    names = [next((m.name for m in machines if family in (m.alias, m.name)), "") for family in FAMILIES]
    names += ["none", "generic-pc" if answers.target in X86 else ""]
    for name in filter(None, names):
        yield ask("qom-list-properties", typename=f"{name}-machine")


def _host_abilities(answers: Answers) -> Iterator[Message]:
    if answers.target in ARM:
        yield ask("query-gic-capabilities")
    if _has_type(answers, "sev-guest") or _has_type(answers, "sev-snp-guest"):
        yield ask("query-sev-capabilities")
    if _has_type(answers, "sgx-epc"):
        yield ask("query-sgx-capabilities")


def _expansions(answers: Answers, model: str) -> Iterator[Message]:
    """The best CPU of the run: plain, without care for migration, and once more for what is deprecated."""
    if not _has_command(answers, "query-cpu-model-expansion"):
        return
    yield expand("full" if answers.target in ARM else "static", model)
    if answers.target in X86 and answers.run.host_cpu is not None:
        yield expand("static", model, {"migratable": False})
    if _has_command(answers, "query-cpu-model-expansion/ret-type/deprecated-props"):
        yield expand("full", model)


def _has_type(answers: Answers, flag: str) -> bool:
    fact = FACTS[flag]
    assert fact.kind is Kind.TYPE, flag
    return not answers.types.isdisjoint(fact.names)


def _has_command(answers: Answers, path: str) -> bool:
    return path in answers.facts.get("schema", ())
