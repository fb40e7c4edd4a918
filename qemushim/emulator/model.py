"""``Emulator``: what one QEMU binary can do.  Immutable; answers questions, holds no guest state.

Two kinds of binary, two ways to a command line: one that is known by its help text (QEMU 0.9 – 1.2) takes the
*classic* way, one that was asked over QMP takes the *main* way.
"""

# types are given as they are: a NamedTuple compiles each that is text, and here are a hundred fields

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Literal, NamedTuple


class Machine(NamedTuple):
    """One machine type of one accelerator (``query-machines``, or a line of ``-M ?``)."""

    name: str
    alias: str = ""
    is_default: bool = False
    max_cpus: int = 0
    hotplug_cpus: bool = False
    #: QOM type of the CPU that the machine takes when none is asked for, ``""`` where unknown
    default_cpu_type: str = ""
    numa_mem_supported: bool = True
    default_ram_id: str = ""
    deprecated: bool = False
    #: whether the machine can have ACPI; ``None``: this QEMU does not say (< 8.0)
    acpi: bool | None = None
    #: what the help text says behind the name (classic binaries)
    description: str = ""


class CpuModel(NamedTuple):
    """One entry of ``query-cpu-definitions``."""

    name: str
    typename: str = ""
    #: names of the features that keep the model from running here; ``None``: unknown, empty: usable
    blockers: tuple[str, ...] | None = None
    deprecated: bool = False


class HostCpuProperty(NamedTuple):
    """One property of ``query-cpu-model-expansion`` of the host model."""

    name: str
    value: bool | int | str
    #: whether a guest with it can migrate; ``None``: unknown
    migratable: bool | None = None


class HostCpu(NamedTuple):
    """What ``query-cpu-model-expansion`` says of the best CPU this binary can give."""

    model: str
    properties: tuple[HostCpuProperty, ...] = ()
    #: whether the migratability of each property was asked for and answered
    migratability: bool = False
    deprecated: tuple[str, ...] = ()


class Accelerator(NamedTuple):
    """What depends on the accelerator: ``kvm``, ``hvf`` or ``tcg``."""

    name: str
    machines: tuple[Machine, ...] = ()
    cpus: tuple[CpuModel, ...] = ()
    host_cpu: HostCpu | None = None


#: the properties and the options of an emulator of which nothing is known
_NOTHING: Mapping[str, frozenset[str]] = {}
#: the same of its accelerator
_NO_ACCELERATOR = Accelerator("tcg")


class Gic(NamedTuple):
    """One version of ARM's interrupt controller, and who can give it (``query-gic-capabilities``)."""

    version: int
    kernel: bool
    emulated: bool


class Sev(NamedTuple):
    """Memory encryption of AMD hosts (``query-sev-capabilities``); keys and certificates in base64."""

    cbitpos: int
    reduced_phys_bits: int
    pdh: str = ""
    cert_chain: str = ""
    cpu0_id: str = ""


class Sgx(NamedTuple):
    """Enclaves of Intel hosts (``query-sgx-capabilities``)."""

    flc: bool
    sgx1: bool
    sgx2: bool
    #: KiB of all sections
    section_size: int
    #: (NUMA node, size in KiB) of each section
    sections: tuple[tuple[int, int], ...] = ()


class Facts(NamedTuple):
    """What is known of one QEMU binary."""

    arch: str
    #: major, minor, micro
    version: tuple[int, int, int]
    #: path of the binary as a definition names it; ``""`` where only its abilities are known
    binary: str = ""
    #: the vendor's package text (``query-version``), or the ``qemu-kvm`` version of a help text
    package: str = ""
    #: what sets this build or its host apart from the plain one of the version (``hvf``, ``amdsev``)
    variant: str = ""
    #: libvirt's names of capabilities: of the help text (classic) or of QMP
    flags: frozenset[str] = frozenset()
    #: known by its help text alone (no QMP)
    classic: bool = False
    #: ``qemu-kvm`` (the fork of 2008 – 2013), and its own number, 0 where it names none
    is_kvm_fork: bool = False
    kvm_version: int = 0
    #: QOM types (devices, objects, machines, CPUs)
    types: frozenset[str] = frozenset()
    #: type → names of its properties, for the types that were asked; a family of machine types is asked
    #: through its newest member and goes by its alias (``virt-machine``)
    properties: Mapping[str, frozenset[str]] = _NOTHING
    #: the questions of ``qapi.QUESTIONS`` that this binary answers with yes
    schema: frozenset[str] = frozenset()
    #: option group → its parameters (``query-command-line-options``)
    options: Mapping[str, frozenset[str]] = _NOTHING
    #: names of the migration capabilities
    migration: frozenset[str] = frozenset()
    #: the accelerated one first (kvm or hvf), tcg last
    accelerators: tuple[Accelerator, ...] = ()
    tpm_models: frozenset[str] = frozenset()
    tpm_types: frozenset[str] = frozenset()
    gic: tuple[Gic, ...] = ()
    sev: Sev | None = None
    sgx: Sgx | None = None
    #: names of the Hyper-V enlightenments that the host offers
    hyperv: tuple[str, ...] = ()
    microcode: int = 0
    kernel_version: str = ""


class Emulator(Facts):
    """What one QEMU binary can do; made by ``from_help``, ``from_qmp``, ``recorded`` or ``probe``."""

    # -- making one ------------------------------------------------------------------------------------------

    @classmethod
    def from_help(
        cls,
        text: str,
        *,
        machines_text: str = "",
        devices_text: str = "",
        binary: str = "",
        rules: Literal["1.0.0", "0.8.0"] = "1.0.0",
    ) -> "Emulator":
        """A classic binary from what it prints for ``-help``, ``-M ?`` and ``-device ?``.

        ``rules`` names the libvirt release whose reading of the text is wanted.  Raises ``EmulatorError``.
        """
        from qemushim.emulator.helptext import from_help

        return from_help(
            text, machines_text=machines_text, devices_text=devices_text, binary=binary, rules=rules
        )

    @classmethod
    def from_qmp(cls, text: str, *, binary: str = "", variant: str = "") -> "Emulator":
        """A binary from a recorded QMP conversation, commands and replies in turn; or ``EmulatorError``."""
        from qemushim.emulator.qmp import from_qmp

        return from_qmp(text, binary=binary, variant=variant)

    @classmethod
    def recorded(cls, version: str, arch: str = "x86_64") -> "Emulator":
        """A binary that comes with this package, such as ``"7.2.0"`` for ``"ppc"``; or ``EmulatorError``."""
        from qemushim.emulator.bundled import recorded

        return recorded(version, arch)

    @classmethod
    def probe(cls, path: str, *, refresh: bool = False) -> "Emulator":
        """An installed binary: from the user's cache, or started and asked.  Raises ``EmulatorError``.

        ``refresh`` asks again even where the cache knows it.
        """
        from qemushim.emulator.cache import probed

        return probed(path, refresh=refresh)

    # -- questions -------------------------------------------------------------------------------------------

    def has_device(self, name: str) -> bool:
        """Whether ``-device name`` is known."""
        return name in self.types

    def has_object(self, name: str) -> bool:
        """Whether ``-object name`` is known."""
        return name in self.types

    def device_property(self, device: str, name: str) -> bool:
        """Whether the type (device, object, machine) has the property; false where it was not asked."""
        return name in self.properties.get(device, ())

    def qapi(self, path: str) -> bool:
        """Whether the QAPI schema has the path, such as ``netdev_add/arg-type/type/^dgram``.

        Only the questions listed in ``qapi.QUESTIONS`` are kept in a snapshot.
        """
        return path in self.schema

    def option(self, group: str, parameter: str = "") -> bool:
        """Whether the option group (``sandbox`` …) exists, and has the parameter where one is named."""
        return group in self.options and (not parameter or parameter in self.options[group])

    def flag(self, name: str) -> bool:
        """Whether libvirt's capability of that name is there."""
        return name in self.flags

    # -- accelerators, machines, CPUs ------------------------------------------------------------------------

    def accelerator(self, virt: str) -> Accelerator | None:
        """The data for a domain type (``kvm``, ``hvf``, ``qemu``); ``None`` where the binary can't."""
        wanted = "tcg" if virt == "qemu" else virt
        for accelerator in self.accelerators:
            if accelerator.name == wanted:
                return accelerator
        return None

    def machine(self, name: str, virt: str = "") -> Machine | None:
        """The machine type of that name or alias, for the domain type (or for the first accelerator)."""
        names, aliases = self._machines[self._accelerator_or_first(virt).name]
        return names.get(name) or aliases.get(name)

    def canonical_machine(self, name: str, virt: str = "") -> str:
        """The versioned name behind an alias (``pc`` → ``pc-i440fx-10.0``); other names as they are."""
        found = self._machines[self._accelerator_or_first(virt).name][1].get(name)
        return found.name if found is not None else name

    def default_machine(self, virt: str = "") -> Machine | None:
        """What a document without ``machine`` gets: the one preferred for the architecture."""
        machines = self._accelerator_or_first(virt).machines
        return machines[0] if machines else None

    def cpu_model(self, name: str, virt: str = "") -> CpuModel | None:
        return next((m for m in self._accelerator_or_first(virt).cpus if m.name == name), None)

    @cached_property
    def _machines(self) -> dict[str, tuple[dict[str, Machine], dict[str, Machine]]]:
        """Accelerator → its machine types by name, and by alias; the first of a name counts."""
        return {
            accelerator.name: (
                {machine.name: machine for machine in reversed(accelerator.machines)},
                {machine.alias: machine for machine in reversed(accelerator.machines) if machine.alias},
            )
            for accelerator in reversed(self.accelerators or (_NO_ACCELERATOR,))
        }

    def _accelerator_or_first(self, virt: str) -> Accelerator:
        found = self.accelerator(virt) if virt else None
        if found is not None:
            return found
        return self.accelerators[0] if self.accelerators else _NO_ACCELERATOR

    # -- variations (tests, dry runs of “what if”) -----------------------------------------------------------

    def with_binary(self, path: str) -> "Emulator":
        return self._replace(binary=path)

    def with_flags(self, add: Iterable[str] = (), remove: Iterable[str] = ()) -> "Emulator":
        """The same with capabilities added or removed, the facts behind them included (``flags.FACTS``)."""
        from qemushim.emulator.flags import change_flags

        return change_flags(self, frozenset(add), frozenset(remove))
