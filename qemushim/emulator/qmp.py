"""From a QMP conversation to an ``Emulator``: the same distiller for a recorded one and for a live one.

A conversation is a sequence of (command, reply) pairs, in the order of ``interview.py``.  A second
``qmp_capabilities`` starts a second run, which was made without hardware acceleration; only machines and CPUs
are taken from it. Replies belong to commands by place: the same question may be answered differently later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from qemushim.emulator.flags import VIRTIO_BLK, compute_flags
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
from qemushim.emulator.qapi import Schema
from qemushim.errors import EmulatorError

Message = Mapping[str, Any]
Conversation = Iterable[tuple[Message, Message]]

#: QEMU's name of a target → libvirt's name of the architecture, where they differ
ARCH_NAMES = {"arm": "armv7l", "i386": "i686"}

#: architecture → the machine type that a document without one gets, whatever QEMU's own default is
PREFERRED_MACHINES = {
    "aarch64": "virt",
    "alpha": "clipper",
    "armv6l": "integratorcp",
    "armv7b": "virt",
    "armv7l": "virt",
    "cris": "axis-dev88",
    "i686": "pc",
    "lm32": "lm32-evr",
    "loongarch64": "virt",
    "m68k": "mcf5208evb",
    "microblaze": "petalogix-s3adsp1800",
    "microblazeel": "petalogix-s3adsp1800",
    "mips": "malta",
    "mips64": "malta",
    "mips64el": "malta",
    "mipsel": "malta",
    "or32": "or1k-sim",
    "ppc": "g3beige",
    "ppc64": "pseries",
    "ppc64le": "pseries",
    "ppcemb": "bamboo",
    "ppcle": "g3beige",
    "riscv32": "virt",
    "riscv64": "virt",
    "s390x": "s390-ccw-virtio",
    "sh4": "shix",
    "sh4eb": "shix",
    "sparc": "SS-5",
    "sparc64": "sun4u",
    "unicore32": "puv3",
    "x86_64": "pc",
    "xtensa": "sim",
    "xtensaeb": "sim",
}

#: libvirt's spelling of the POWER models; QEMU has spelled them in more than one way
PPC64_MODELS = ("POWER6", "POWER7", "POWER8", "POWER9", "POWER10", "POWERPC_e5500", "POWERPC_e6500")

#: the Hyper-V enlightenments that libvirt 11.3 knows, in its order
HYPERV_FEATURES = (
    *("relaxed", "vapic", "spinlocks", "vpindex", "runtime", "synic", "stimer", "reset", "vendor_id"),
    *("frequencies", "reenlightenment", "tlbflush", "ipi", "evmcs", "avic", "emsr_bitmap", "xmm_input"),
)

#: types that are compiled in everywhere and of use only where the host says so, with the question that tells
HOST_TYPES = {
    "query-sev-capabilities": frozenset(("sev-guest", "sev-snp-guest")),
    "query-sgx-capabilities": frozenset(("sgx-epc",)),
}

#: what a reply of another shape than QEMU's makes of code that reads it
_WRONG_SHAPE = (AttributeError, IndexError, KeyError, TypeError, ValueError)

INT64 = range(-(1 << 63), 1 << 63)


def from_qmp(text: str, *, binary: str = "", variant: str = "") -> Emulator:
    """An emulator from a recorded conversation: JSON documents, command and reply in turn, blank lines
    between them.

    ``variant`` ``hvf`` says that the first run was accelerated by macOS, which QMP does not tell.
    Raises ``EmulatorError`` where the text is none.
    """
    return distil(read_conversation(text), binary=binary, variant=variant)


def read_conversation(text: str) -> list[tuple[Message, Message]]:
    """The (command, reply) pairs of a recording."""
    try:
        documents = [json.loads(document) for document in text.split("\n\n") if document.strip()]
    except ValueError as problem:
        raise EmulatorError(f"recorded QMP conversation is not JSON: {problem}") from problem
    if not all(isinstance(document, dict) for document in documents):
        raise EmulatorError("recorded QMP conversation holds something that is neither command nor reply")
    documents = [document for document in documents if "QMP" not in document and "event" not in document]
    pairs = list(zip(documents[::2], documents[1::2], strict=False))
    for place, (command, reply) in enumerate(pairs, 1):
        if "execute" not in command or not reply.keys() & {"return", "error"}:
            raise EmulatorError(f"recorded QMP conversation is out of step at its command {place}")
        if command.get("id") != reply.get("id"):
            raise EmulatorError(f"recorded QMP conversation: reply {place} belongs to another command")
    if len(documents) % 2 or not pairs:
        raise EmulatorError("recorded QMP conversation ends before the last reply")
    return pairs


def distil(conversation: Conversation, *, binary: str = "", variant: str = "") -> Emulator:
    """What a conversation says of the binary.  Raises ``EmulatorError`` where it does not make sense."""
    answers = Answers()
    for command, reply in conversation:
        answers.take(command, reply)
    return _finish(answers, binary, variant)


@dataclass
class Run:
    """What depends on the accelerator, of one run of the binary."""

    machines: list[Machine] = field(default_factory=list)
    cpus: list[CpuModel] = field(default_factory=list)
    host_cpu: HostCpu | None = None


@dataclass
class Answers:
    """What the replies so far have said; each command that matters has a method of its own."""

    runs: list[Run] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    kvm: bool = False
    target: str = ""
    types: frozenset[str] = frozenset()
    properties: dict[str, frozenset[str]] = field(default_factory=dict)
    options: dict[str, frozenset[str]] = field(default_factory=dict)
    #: flags that only a reply can tell
    flags: set[str] = field(default_factory=set)

    def take(self, command: Message, reply: Message) -> None:
        name = command["execute"]
        if name == "qmp_capabilities":
            self.runs.append(Run())
            return
        handler = _HANDLERS.get(name)
        if handler is not None:
            try:
                handler(self, command.get("arguments", {}), reply.get("return"))
            except _WRONG_SHAPE as problem:
                text = f"the reply to {name} has an unexpected shape: {type(problem).__name__}: {problem}"
                raise EmulatorError(text) from problem

    @property
    def run(self) -> Run:
        if not self.runs:
            self.runs.append(Run())
        return self.runs[-1]

    # -- the binary ------------------------------------------------------------------------------------------

    def version(self, _: Message, value: Any) -> None:
        number = value["qemu"]
        self.facts["version"] = (number["major"], number["minor"], number["micro"])
        self.facts["package"] = value.get("package", "")

    def arch(self, _: Message, value: Any) -> None:
        self.target = ARCH_NAMES.get(value["arch"], value["arch"])

    def schema(self, _: Message, value: Any) -> None:
        self.facts["schema"] = Schema(value).answers()

    def accelerated(self, _: Message, value: Any) -> None:
        self.kvm = bool(value and value["present"] and value["enabled"])

    def type_list(self, _: Message, value: Any) -> None:
        self.types = frozenset(item["name"] for item in value)

    def property_list(self, arguments: Message, value: Any) -> None:
        kind = self._family(arguments["typename"])
        names = frozenset(item["name"] for item in value or ())
        if kind in self.properties:
            # asked twice: the first answer counts, but for the one property that the second question is about
            names = (self.properties[kind] - {"loadparm"}) | (names & {"loadparm"})
        elif kind in VIRTIO_BLK and any(_is_off(item, "scsi") for item in value or ()):
            self.flags.add("virtio-blk-pci.scsi.default.disabled")
        if value is not None:
            self.properties[kind] = names

    def _family(self, kind: str) -> str:
        """``virt-8.2-machine`` → ``virt-machine``: facts are asked of a family of machine types."""
        name = kind.removesuffix("-machine")
        alias = next((m.alias for m in self.run.machines if m.name == name and m.alias), "")
        return f"{alias}-machine" if alias and name != kind else kind

    def option_list(self, _: Message, value: Any) -> None:
        for item in value or ():
            names = frozenset(parameter["name"] for parameter in item["parameters"])
            self.options[item["option"]] = self.options.get(item["option"], frozenset()) | names

    def migration(self, _: Message, value: Any) -> None:
        self.facts["migration"] = frozenset(item["capability"] for item in value or ())

    def tpm_models(self, _: Message, value: Any) -> None:
        self.facts["tpm_models"] = frozenset(value or ())

    def tpm_types(self, _: Message, value: Any) -> None:
        self.facts["tpm_types"] = frozenset(value or ())

    # -- the host --------------------------------------------------------------------------------------------

    def gic(self, _: Message, value: Any) -> None:
        self.facts["gic"] = tuple(
            Gic(item["version"], item["kernel"], item["emulated"]) for item in value or ()
        )

    def sev(self, _: Message, value: Any) -> None:
        if value is None:
            self.types -= HOST_TYPES["query-sev-capabilities"]
            return
        self.facts["sev"] = Sev(
            value["cbitpos"],
            value["reduced-phys-bits"],
            value["pdh"],
            value["cert-chain"],
            value.get("cpu0-id", ""),
        )

    def sgx(self, _: Message, value: Any) -> None:
        if value is None or "sections" not in value:
            self.types -= HOST_TYPES["query-sgx-capabilities"]
            return
        sections = tuple((item["node"], item["size"] // 1024) for item in value["sections"])
        total = sum(size for _, size in sections)
        self.facts["sgx"] = Sgx(value["flc"], value["sgx1"], value["sgx2"], total, sections)

    # -- machines and CPUs -----------------------------------------------------------------------------------

    def machines(self, _: Message, value: Any) -> None:
        machines = [_machine(item) for item in value if item["name"] != "none"]
        self.run.machines = _preferred_first(machines, self.target)

    def cpus(self, _: Message, value: Any) -> None:
        self.run.cpus = [_cpu(item, self.target) for item in value or ()]

    def expansion(self, arguments: Message, value: Any) -> None:
        if value is None:
            return
        wanted = arguments["model"].get("props", {})
        properties = value["model"].get("props", {})
        found = self.run.host_cpu
        if "hv-passthrough" in wanted:
            self.facts["hyperv"] = _hyperv(properties)
        elif found is None:
            self.run.host_cpu = HostCpu(value["model"]["name"], _host_properties(properties))
        elif "migratable" in wanted:
            self.run.host_cpu = _with_migratability(found, properties)
        elif arguments["type"] == "full":
            self.run.host_cpu = found._replace(deprecated=tuple(value.get("deprecated-props", ())))


_HANDLERS: dict[str, Callable[[Answers, Message, Any], None]] = {
    "device-list-properties": Answers.property_list,
    "qom-list-properties": Answers.property_list,
    "qom-list-types": Answers.type_list,
    "query-command-line-options": Answers.option_list,
    "query-cpu-definitions": Answers.cpus,
    "query-cpu-model-expansion": Answers.expansion,
    "query-gic-capabilities": Answers.gic,
    "query-kvm": Answers.accelerated,
    "query-machines": Answers.machines,
    "query-migrate-capabilities": Answers.migration,
    "query-qmp-schema": Answers.schema,
    "query-sev-capabilities": Answers.sev,
    "query-sgx-capabilities": Answers.sgx,
    "query-target": Answers.arch,
    "query-tpm-models": Answers.tpm_models,
    "query-tpm-types": Answers.tpm_types,
    "query-version": Answers.version,
}


def _finish(answers: Answers, binary: str, variant: str) -> Emulator:
    missing = [name for name in ("version", "schema") if name not in answers.facts]
    if missing or not answers.target or not answers.types:
        raise EmulatorError("the QMP conversation does not tell version, target, schema and types")
    hardware = "kvm" if answers.kvm else "hvf" if variant == "hvf" else ""
    names = ([hardware] if hardware else []) + ["tcg"]
    emulator = Emulator(
        arch=answers.target,
        binary=binary,
        variant=variant,
        types=answers.types,
        properties=answers.properties,
        options=answers.options,
        accelerators=tuple(
            Accelerator(name, tuple(run.machines), tuple(run.cpus), run.host_cpu)
            for name, run in zip(names, answers.runs, strict=False)
        ),
        **answers.facts,
    )
    return emulator._replace(flags=compute_flags(emulator, answers.flags))


def _is_off(item: Message, name: str) -> bool:
    """Whether the item is that property, and is off by default."""
    return bool(item["name"] == name and item.get("default-value") is False)


def _machine(item: Message) -> Machine:
    return Machine(
        name=item["name"],
        alias=item.get("alias", ""),
        is_default=item.get("is-default", False),
        max_cpus=item.get("cpu-max", 0),
        hotplug_cpus=item.get("hotpluggable-cpus", False),
        default_cpu_type=item.get("default-cpu-type", ""),
        numa_mem_supported=item.get("numa-mem-supported", True),
        default_ram_id=item.get("default-ram-id", ""),
        deprecated=item.get("deprecated", False),
        acpi=item.get("acpi"),
    )


def _preferred_first(machines: list[Machine], arch: str) -> list[Machine]:
    """The machines with the architecture's preferred one (else QEMU's default) moved to the front."""
    preferred = PREFERRED_MACHINES.get(arch, "")
    first = next((m for m in machines if preferred and preferred in (m.alias, m.name)), None)
    first = first or next((m for m in machines if m.is_default), None)
    if first is None:
        return machines
    return [first, *(m for m in machines if m is not first)]


def _cpu(item: Message, arch: str) -> CpuModel:
    name = item["name"]
    if arch in ("ppc64", "ppc64le"):
        name = next((model for model in PPC64_MODELS if model.lower() == name.lower()), name)
    blockers = item.get("unavailable-features")
    return CpuModel(
        name=name,
        typename=item.get("typename", ""),
        blockers=None if blockers is None else tuple(blockers),
        deprecated=item.get("deprecated", False),
    )


def _host_properties(properties: Message) -> tuple[HostCpuProperty, ...]:
    kept: Iterator[tuple[str, Any]] = (
        (name, value)
        for name, value in properties.items()
        if isinstance(value, bool | str) or (isinstance(value, int) and value in INT64)
    )
    return tuple(HostCpuProperty(name, value) for name, value in kept)


def _with_migratability(host: HostCpu, everything: Message) -> HostCpu:
    """The host CPU with its switches marked; ``everything``: what it has when it need not migrate."""
    marked = []
    for item in host.properties:
        other = everything.get(item.name)
        if isinstance(item.value, bool) and isinstance(other, bool):
            if item.value:
                item = item._replace(migratable=True)
            elif other:
                item = item._replace(value=True, migratable=False)
        marked.append(item)
    return host._replace(properties=tuple(marked), migratability=True)


def _hyperv(properties: Message) -> tuple[str, ...]:
    """The enlightenments that the host offers; an absent one, ``False``, 0 and the empty text are none."""
    return tuple(
        name
        for name in HYPERV_FEATURES
        if properties.get(f"hv-{name}") or properties.get(f"hv-{name.replace('_', '-')}")
    )
