"""What the classic way carries along: domain, emulator, host, and the command line while it grows."""

from __future__ import annotations

from dataclasses import dataclass, field

from qemushim.classic.document import Device, Domain
from qemushim.classic.later import name as emulator_name
from qemushim.command.command import Command
from qemushim.command.option import Option, Pairs, Properties, Value, key_values
from qemushim.document.node import Node
from qemushim.emulator.model import Emulator
from qemushim.errors import error
from qemushim.host import Host

#: keys and values of ``key=value,…``, those without a value left out
Keys = list[tuple[str, Value]]

#: what came with QEMU 0.10, after its own kvm-NN releases had had it
QEMU_0_10 = (0, 9, 50)
QEMU_0_11 = (0, 10, 50)
_KVM_LIKE = QEMU_0_10


@dataclass
class Classic:
    """A domain that is defined for an emulator that is known by its help text."""

    domain: Domain
    emulator: Emulator
    host: Host

    def has(self, capability: str) -> bool:
        """Whether the help text shows the capability, by libvirt's name of it."""
        return capability in self.emulator.flags

    @property
    def letter(self) -> bool:
        """Whether libvirt 0.8.0 is followed even where QEMU refuses what it says."""
        return self.host.classic.to_the_letter

    def since(self, *version: int) -> bool:
        """Whether the release is at least that old; ``kvm-NN`` before 0.10 counts as 0.10 did."""
        return self.emulator.version >= version or (self.emulator.is_kvm_fork and version <= _KVM_LIKE)

    def require(self, version: tuple[int, ...], what: str, source: Node, hint: str) -> None:
        """Raise ``ConfigError`` where the release is older than what is asked for."""
        if not self.since(*version):
            raise error.unsupported(f"{what} is not known to {emulator_name(self.emulator)}", source, hint)


#: devices that qemu-kvm has or lacks by how it was built
_BUILD_DEPENDENT = frozenset({"pci-assign"})


@dataclass
class ClassicBuild(Classic):
    """The same while its command line is made."""

    command: Command = field(default_factory=lambda: Command(""))
    aliases: dict[Node, str] = field(default_factory=dict)
    incoming: str = ""
    snapshot: str = ""
    #: file descriptors of taps that were given out
    taps: int = 0

    def alias(self, device: Device) -> str:
        """QEMU's name for the device; ``""`` where it has none in this style."""
        return self.aliases.get(device.node, "")

    def next_descriptor(self, first: int | None, nth: int) -> int:
        """The number of the nth descriptor of a kind; ``first`` None: counted through all that are passed."""
        if first is None:
            return self.host.descriptors.first + len(self.command.descriptors)
        return first + nth

    def option(self, flag: str, text: str | None, source: Node | None, rule: str) -> Option:
        """What no element asks for comes from the domain as a whole."""
        return Option(flag, text, source or self.domain.node, rule)

    def pairs(
        self, flag: str, pairs: Properties | Pairs, source: Node | None, rule: str, *, head: str = ""
    ) -> Option:
        """``flag head,key=value,…``"""
        return self.option(flag, key_values(pairs, head), source, rule)

    def device(self, driver: str, pairs: Keys, source: Node, rule: str) -> Option:
        """``-device driver,key=value,…``.  Raises ``ConfigError`` where the emulator's list lacks it."""
        listed = not self.emulator.types or self.emulator.has_device(driver)
        # the list is of one build: what depends on the build's kernel headers can be in another of that version
        if not listed and not (self.emulator.is_kvm_fork and driver in _BUILD_DEPENDENT):
            raise error.unsupported(
                f"this QEMU has no device '{driver}'",
                source,
                "qemu -device ? lists what it has; choose another model",
            )
        return Option("-device", key_values(pairs, driver), source, rule)

    def place(self, device: Device) -> Keys:
        """``bus=pci.0,addr=0x4`` for a device with a PCI address.  Raises ``ConfigError`` beyond bus 0."""
        pci = device.pci
        if pci is None:
            return []
        for part, words in ((pci.domain, "domain"), (pci.bus, "bus"), (pci.function, "function")):
            if part:
                raise error.unsupported(
                    f"Only PCI device addresses with {words}=0 are supported", device.node, "slots of bus 0"
                )
        return [("bus", "pci.0"), ("addr", f"{pci.slot:#x}")]


def refuse_comma(text: str, what: str, source: Node) -> str:
    """A value for an old option, which can not quote a comma.  Raises ``ConfigError`` where it has one."""
    if "," in text:
        raise error.unsupported(
            f"{what} '{text}' has a comma, which this QEMU takes for a separator",
            source,
            "a name without commas",
        )
    return text
