"""``Guest``: a domain document, from XML to definition to command line.  Pure: nothing is run or opened.

The phases and their order are libvirt's: parse, then defaults of the domain, defaults of each device, addresses,
checks; for a command line then aliases and boot order, and the option groups in the order of ``GROUPS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from qemushim.address.assign import assign_addresses
from qemushim.address.check import check_addresses, check_slot_options
from qemushim.address.drive import assign_scsi_hostdevs
from qemushim.address.indexes import assign_controller_indexes
from qemushim.address.past import Past, keep_addresses, keep_devices, keep_identity
from qemushim.command.command import Command
from qemushim.command.option import Option
from qemushim.context import Build, Define
from qemushim.devices.address import PciAddress
from qemushim.devices.alias import assign_aliases, check_aliases
from qemushim.devices.base import Device
from qemushim.devices.bootindex import check_boot_order
from qemushim.devices.disks_together import check_disks_together, check_drive_addresses
from qemushim.devices.export import export_interfaces
from qemushim.devices.prepare import prepare_devices
from qemushim.document.item import Item
from qemushim.document.node import Node
from qemushim.document.parse import parse
from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError, ShimError, error
from qemushim.host import Host
from qemushim.machine import (
    boot,
    clock,
    cpu,
    cputune,
    features,
    firmware,
    identity,
    memory,
    misc,
    namespace,
    numa,
    security,
    smbios,
    throttle,
    tune,
    vcpu,
)
from qemushim.machine.consoles import assign_isa_ports, check_consoles, complete_consoles, mirror_serial
from qemushim.machine.domain import Domain, require_domain
from qemushim.machine.environment import build_environment
from qemushim.machine.implicit import (
    add_hostdev_controllers,
    add_implicit_controllers,
    add_implicit_devices,
    add_implicit_video,
    check_duplicates,
    check_usb,
)
from qemushim.machine.machine import accel_options, machine_options
from qemushim.machine.order import option_groups
from qemushim.machine.validate import check_domain, check_whole

Step = Callable[[Define], None]


def check_documents(d: Define) -> None:
    """What is wrong with a device whatever the machine and the emulator are."""
    for device in d.domain.as_read():
        device.check_document(d)


def complete_devices(d: Define) -> None:
    """Each device's own defaults, kind by kind."""
    for device in tuple(d.domain.every()):
        if device.node.child("alias") is not None and not (d.live or device.user_alias):
            # made up when the guest starts
            device.node.discard("alias")
        for tag in device.unused:
            device.node.discard(tag)
        device.complete(d)


def check_devices(d: Define) -> None:
    for device in d.domain.every():
        check_slot_options(device)
        device.check(d)


def check_hostdevs(d: Define) -> None:
    """What host devices must not be together; a guest without any does not load what they are."""
    if d.domain.lists["hostdev"]:
        from qemushim.devices.hostdev_check import check_hostdevs_together

        check_hostdevs_together(d)


def place_devices(d: Define) -> None:
    """Addresses, with the places left free that another document of the guest has given away."""
    lists = d.domain.lists
    for device in d.beside:
        lists[device.tag].append(device)
    try:
        assign_addresses(d)
    finally:
        for device in d.beside:
            lists[device.tag].remove(device)


#: from the user's document to a definition
DEFINE: tuple[Step, ...] = (
    check_documents,
    keep_identity,
    identity.complete_identity,
    namespace.complete_namespace,
    namespace.complete_metadata,
    security.complete_security,
    numa.complete_cells,
    clock.complete_lifecycle,
    clock.complete_clock,
    smbios.complete_sysinfo,
    tune.complete_tune,
    vcpu.complete_vcpus,
    cputune.complete_cputune,
    check_usb,
    add_hostdev_controllers,
    assign_controller_indexes,
    keep_devices,
    features.strip_acpi,
    firmware.select_firmware,
    add_implicit_devices,
    cpu.complete_default_cpu,
    features.complete_features,
    cpu.complete_cpu,
    features.check_tseg,
    numa.complete_numa,
    assign_isa_ports,
    complete_devices,
    assign_scsi_hostdevs,
    memory.complete_memory,
    boot.complete_loader,
    check_duplicates,
    check_boot_order,
    boot.complete_boot,
    complete_consoles,
    add_implicit_controllers,
    add_implicit_video,
    keep_addresses,
    place_devices,
    mirror_serial,
)

#: whether a definition can be had, in the order in which libvirt looks
CHECK: tuple[Step, ...] = (
    identity.check_identity,
    check_domain,
    check_consoles,
    check_addresses,
    check_devices,
    check_disks_together,
    check_hostdevs,
    check_drive_addresses,
    check_aliases,
    check_whole,
)


def place_what_is_open(d: Define) -> None:
    """Addresses that a stored definition left open; one that was made a moment ago has them all."""
    if not d.placed:
        assign_addresses(d)


#: from a definition to what is started
START: tuple[Step, ...] = (
    firmware.select_firmware,
    place_what_is_open,
    assign_aliases,
    memory.align_memory,
    cpu.resolve_cpu,
)

Group = Callable[[Build], Iterator[Option]]

#: the options, in order; devices of a kind are grouped by ``option_groups``
GROUPS: tuple[Group, ...] = (
    identity.identity_options,
    firmware.pflash_options,
    machine_options,
    accel_options,
    features.tseg_options,
    cpu.cpu_options,
    firmware.bios_options,
    memory.memory_options,
    vcpu.smp_options,
    vcpu.iothread_options,
    throttle.throttle_options,
    numa.numa_options,
    identity.uuid_options,
    smbios.smbios_options,
    misc.genid_options,
    misc.display_none_options,
    misc.defaults_options,
    misc.monitor_options,
    clock.rtc_options,
    clock.power_options,
    boot.boot_options,
    *option_groups(
        "iommu", "pci-hole64", "controller", "memory", "hub", "ccid", "disk", "filesystem", "interface"
    ),
    *option_groups(
        "smartcard", "serial", "parallel", "channel", "console", "tpm", "input", "audio", "graphics"
    ),
    *option_groups("video", "sound", "watchdog", "redirdev", "hostdev"),
    misc.incoming_options,
    *option_groups("memballoon", "rng", "nvram"),
    misc.vmcoreinfo_options,
    security.launch_security_options,
    namespace.namespace_options,
    misc.sandbox_options,
    *option_groups("panic", "shmem", "vsock", "crypto", "pstore"),
    misc.message_options,
)


class Guest:
    """A domain document and its devices.

    ``define`` and ``command`` leave the guest as it is: they work on a copy.
    """

    def __init__(self, root: Node, file: str = "", like: Domain | None = None) -> None:
        require_domain(root)
        self.file = file
        self.domain = Domain(root, like)
        #: defined for a QEMU that is known by its help text, so written as libvirt 0.8.0 wrote it
        self.classic = False
        #: device → the PCI address that such a QEMU is going to choose, where the definition can not say it
        self.predicted: Mapping[Item, PciAddress] = {}
        #: the user's own text, and which of its elements were taken out (``Node.origin``)
        self._text: str | bytes = ""
        self._detached: frozenset[int] = frozenset()
        #: the emulator and the host that this is a definition for
        self._defined_for: tuple[Emulator, Host] | None = None
        #: the emulator for which this was defined a moment ago, every address included
        self._placed_for: Emulator | None = None

    @classmethod
    def from_xml(cls, text: str | bytes, file: str = "") -> Guest:
        """Parse a domain document; ``file`` is what errors call it.

        Raises ``ConfigError`` where it is no XML, no domain, or a declared value is malformed.
        """
        with located(file):
            guest = cls(parse(text, file), file)
            guest.domain.check_fields()
        guest._text = text
        return guest

    @property
    def name(self) -> str:
        return self.domain.name

    @property
    def text(self) -> str | bytes:
        """The text that this was parsed from, ``""`` where there is none."""
        return self._text

    def copy(self) -> Guest:
        twin = Guest(self.domain.node.copy(), self.file, self.domain)
        twin.classic = self.classic
        twin._text, twin._detached = self._text, self._detached
        return twin

    def define(
        self,
        emulator: Emulator,
        host: Host,
        *,
        update: bool = True,
        past: Iterable[Guest] = (),
        beside: Iterable[Device] = (),
    ) -> Guest:
        """The definition that libvirt would store: defaults, implicit devices and controllers, every address.

        ``update``: the guest is new and takes today's defaults; ``False`` for one that exists, whose guest-visible
        hardware must stay.  ``past``: definitions of this guest so far, the stored one before the running one; what
        the document leaves out (addresses, MACs, controllers, UUID, version of the machine type) stays as it was there.
        ``beside``: devices of another document of the guest, whose places are left free.  Raises ``ConfigError`` where
        the document can not be defined, ``AddressError`` where no address is left.
        """
        if emulator.classic:
            with located(self.file):
                return self._define_classic(emulator, host)
        guest = self.copy()
        guest._complete(guest._defining(emulator, host, update=update, past=past, beside=beside))
        return guest

    def _defining(
        self,
        emulator: Emulator,
        host: Host,
        *,
        update: bool,
        past: Iterable[Guest],
        beside: Iterable[Device],
    ) -> Define:
        documents = tuple(old.domain for old in past)
        known = Past(documents) if documents else None
        return Define(self.domain, emulator, host, update=update, past=known, beside=tuple(beside))

    def _complete(self, d: Define) -> None:
        with located(self.file, self.domain.node):
            for step in (*DEFINE, *CHECK):
                step(d)
        self._defined_for = (d.emulator, d.host)

    def command(
        self, emulator: Emulator, host: Host, *, update: bool = True, incoming: str = "", export: bool = False
    ) -> Command:
        """The command line that libvirt would start this guest with.

        The guest is defined first (a definition stays as it is).  ``incoming``: where it migrates in from
        (``tcp:10.0.0.1:5000``).  ``export``: as ``virsh domxml-to-native`` shows it, with nothing of the host prepared.
        Raises what ``define`` raises.
        """
        known = self._defined_for
        if known is not None and known[0] is emulator and known[1] is host:
            guest = self.copy()
        else:
            guest = self.define(emulator, host, update=update)
            guest._placed_for = emulator if update else None
        with located(self.file, self.domain.node):
            return guest.start(emulator, host, incoming=incoming, export=export)

    def start(
        self,
        emulator: Emulator,
        host: Host,
        *,
        incoming: str = "",
        export: bool = False,
        into: Command | None = None,
    ) -> Command:
        """The command line of a complete definition, which is changed into what runs (aliases, sizes, CPU).

        ``into``: a command that is still empty, for a caller who watches how it grows.
        """
        if emulator.classic:
            from qemushim.classic.command import command_classic

            return command_classic(self.domain.node, emulator, host, incoming=incoming, into=into)
        return self.build(emulator, host, incoming=incoming, export=export, into=into).command

    def build(
        self,
        emulator: Emulator,
        host: Host,
        *,
        incoming: str = "",
        export: bool = False,
        alone: bool = False,
        paused: bool = True,
        into: Command | None = None,
    ) -> Build:
        """What ``start`` makes its command line in: with the numbers that were given out on the way.

        For a QEMU that speaks QMP alone.  ``alone``, ``paused``: see ``Build``.
        """
        emulator = namespace.changed_emulator(self.domain, emulator)
        placed = self._placed_for is emulator
        if export and export_interfaces(self.domain):
            placed = False
        d = Define(self.domain, emulator, host, update=False, start=True, incoming=incoming, placed=placed)
        for step in START:
            step(d)
        command = into if into is not None else Command("")
        b = Build(
            self.domain, emulator, host, command, incoming=incoming, export=export, alone=alone, paused=paused
        )
        b.command.binary = self.domain.node.value("devices/emulator") or ""
        prepare_devices(b)
        for group in GROUPS:
            b.command.options.extend(group(b))
        b.command.environment = build_environment(b)
        return b

    def problems(self, emulator: Emulator, host: Host, *, update: bool = True) -> list[ConfigError]:
        """Every independent mistake at once, in the order of the lines; empty where the guest can be had."""
        from qemushim.problems import find_problems

        return find_problems(self, emulator, host, update=update)

    # -- changes -----------------------------------------------------------------------------------------------------

    def attach(self, device: str | bytes, emulator: Emulator, host: Host, *, file: str = "") -> Guest:
        """The definition with one device more; every other device stays where it is.

        ``device`` is the XML of the device alone.  Controllers that it needs are added as a cold definition would add
        them.  Raises ``ConfigError`` where the device can not be had, ``AddressError`` where no place is left.
        """
        return self.joined(device, emulator, host, file=file)[0]

    def joined(
        self,
        device: str | bytes,
        emulator: Emulator,
        host: Host,
        *,
        file: str = "",
        beside: Iterable[Device] = (),
    ) -> tuple[Guest, Device]:
        """What ``attach`` gives, and the device in it.  ``beside`` as for ``define``."""
        guest = self.copy()
        with located(file or self.file):
            new = guest.domain.adopt(parse(device, file))
            memory.count_memory(guest.domain, new)
        if emulator.classic:
            return guest.define(emulator, host, update=False), new
        guest._complete(guest._defining(emulator, host, update=False, past=(), beside=beside))
        return guest, new

    def detach(self, name: str) -> Guest:
        """The definition without one device, found by alias, target or MAC address.  Raises ``ConfigError``."""
        guest = self.copy()
        for device in guest.domain.every():
            if name in (
                device.user_alias,
                device.node.value("target/@dev"),
                device.node.value("mac/@address"),
            ):
                guest.domain.remove(device)
                memory.count_memory(guest.domain, device, leaves=True)
                guest._detached |= {device.node.origin} - {-1}
                return guest
        raise error.argument(
            f"no device of this guest is called '{name}'", hint="name an alias, a target or a MAC"
        )

    def to_xml(self, style: str = "libvirt") -> str:
        """The document: ``libvirt`` in its order and style, ``keep`` with the user's own layout and comments."""
        if style == "keep":
            from qemushim.document.keep import merge

            return merge(self._text, self.domain.node, type(self.domain).schema, self._detached).decode()
        if self.classic:
            from qemushim.classic.define import to_xml

            return to_xml(self.domain.node)
        return self.domain.to_xml()

    def _define_classic(self, emulator: Emulator, host: Host) -> Guest:
        """The same for a QEMU that is known by its help text."""
        from qemushim.classic.define import define_classic
        from qemushim.classic.predict import predict_definition

        guest = self.copy()
        guest.domain = Domain(define_classic(guest.domain.node, emulator, host))
        guest.classic = True
        guest.predicted = predict_definition(guest.domain.node, emulator, host)
        return guest


@contextmanager
def located(file: str, root: Node | None = None) -> Iterator[None]:
    """Errors raised inside say which file they speak of, and which line.

    ``root``: the domain.  What is said of a device that the document does not have is said at its machine type, which
    the device comes from.
    """
    try:
        yield
    except ShimError as problem:
        problem.file = problem.file or file
        if root is not None and not problem.line:
            problem.line = (root.find("os/type") or root).line
        raise
