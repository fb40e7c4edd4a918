"""A command line, read: which reader takes which argument, and in what order."""

from __future__ import annotations

from collections.abc import Callable

from qemushim.devices.watchdog import ACTIONS
from qemushim.document.node import Node
from qemushim.errors import ConfigError
from qemushim.fromargv import (
    basics,
    chardevs,
    cpu,
    disks,
    hostdevs,
    legacy,
    machine,
    memory,
    nics,
    places,
    screens,
    slots,
    small,
    sound,
)
from qemushim.fromargv.arguments import Argument, arguments_of
from qemushim.fromargv.line import Dialect, Known, Line, Note, put
from qemushim.fromargv.places import split_driver
from qemushim.fromargv.syntax import Place, UnreadableError
from qemushim.fromargv.words import Words
from qemushim.guest import located
from qemushim.host import Host

Reader = Callable[[Line, Argument], None]

#: QEMU's device (virtio ones without bus and variant) → reader
READERS: dict[str, Reader] = {
    **dict.fromkeys(("ccid-card-emulated", "ccid-card-passthru"), small.read_smartcard),
    **dict.fromkeys(("intel-iommu", "virtio-iommu"), small.read_iommu),
    **dict.fromkeys(("ivshmem-plain", "ivshmem-doorbell"), small.read_shmem),
    **dict.fromkeys(("i6300esb", "ib700", "diag288"), small.read_watchdog),
    **dict.fromkeys(("pvpanic", "pvpanic-pci"), small.read_panic),
    **dict.fromkeys(("tpm-crb", "tpm-spapr", "tpm-tis", "tpm-tis-device", "spapr-tpm-proxy"), small.read_tpm),
    **dict.fromkeys(("usb-kbd", "usb-mouse", "usb-tablet"), small.read_input),
    **dict.fromkeys(
        ("virtio-keyboard", "virtio-mouse", "virtio-tablet", "virtio-input-host"), small.read_input
    ),
    **dict.fromkeys(("usb-mtp", "vhost-user-fs", "virtio-9p"), small.read_filesystem),
    **dict.fromkeys(
        ("isa-serial", "isa-debugcon", "pci-serial", "spapr-vty", "usb-serial"), chardevs.read_serial
    ),
    **dict.fromkeys(("sclpconsole", "sclplmconsole", "virtconsole"), chardevs.read_console),
    **dict.fromkeys(("vfio-pci", "vfio-pci-nohotplug", "vfio-ccw", "vfio-ap"), hostdevs.read_vfio),
    "acpi-erst": small.read_pstore,
    "isa-parallel": chardevs.read_parallel,
    "pci-assign": hostdevs.read_pci_assign,
    "scsi-generic": hostdevs.read_scsi_generic,
    "usb-host": hostdevs.read_usb_host,
    "usb-hub": small.read_hub,
    "usb-redir": small.read_redirection,
    "vhost-scsi": hostdevs.read_vhost_scsi,
    "vhost-vsock": small.read_vsock,
    "virtio-balloon": small.read_balloon,
    "virtio-crypto": small.read_crypto,
    "virtio-rng": small.read_rng,
    "virtserialport": chardevs.read_channel,
}
_MEMORY = frozenset({"pc-dimm", "nvdimm", "virtio-mem", "virtio-pmem"})


def read_line(
    words: Words,
    host: Host,
    *,
    file: str = "",
    known: Known | None = None,
    name: str = "",
    directory: str = "",
    dialect: Dialect | None = None,
) -> Line:
    """Read a command.  Raises ``ConfigError`` where it is none of QEMU's, or a value is malformed."""
    try:
        with located(file):
            return _read(words, host, file, known or Known(), name, directory, dialect or Dialect())
    except UnreadableError as reason:
        raise ConfigError(str(reason), file=file) from None
    except ValueError as problem:
        raise ConfigError(f"a value of the command is malformed: {problem}", file=file) from None


def _read(
    words: Words, host: Host, file: str, known: Known, name: str, directory: str, dialect: Dialect
) -> Line:
    found = arguments_of(words, file)
    line = Line(
        found.environment, found.binary, found.arguments, host=host, known_host=known, dialect=dialect
    )
    for message, number in found.remarks:
        line.notes[Note("read", message, Place(0, number))] = None
    machine.read_machine(line)
    legacy.rewrite(line)
    basics.read_identity(line)
    cpu.read_cpu(line)
    cpu.read_smp(line)
    basics.read_threads(line)
    basics.read_throttle_groups(line)
    memory.read_memory(line, host)
    machine.read_globals(line)
    machine.read_security(line)
    basics.read_boot(line)
    basics.read_clock(line)
    basics.read_firmware(line)
    basics.read_smbios(line)
    _read_devices(line, host)
    basics.read_process(line)
    basics.default_name(line, name)
    basics.finish_boot(line)
    basics.finish_paths(line, directory)
    return line


def _read_devices(line: Line, host: Host) -> None:
    places.name_buses(line)
    places.read_zpci(line)
    sound.read_audio(line)
    action = line.last("-watchdog-action")
    if action is not None and action.text in ACTIONS:
        line.chipset.watchdog_action = action.text
    elif action is not None:
        action.read = False
        line.reasons[id(action)] = "no action of a watchdog's"
    chardevs.read_ports(line)
    memory.read_enclaves(line, host)
    nics.read_nics(line)
    for argument in tuple(line.all("-device")):
        if not argument.read:
            _read_device(line, argument, host)
    nics.drop_unused(line)
    disks.read_floppies(line)
    disks.read_drives(line)
    chardevs.read_forwards(line)
    small.read_event_devices(line)
    small.read_virtfs(line)
    small.read_legacy_watchdog(line)
    small.read_itco(line)
    sound.read_soundhw(line)
    sound.read_speaker(line)
    screens.read_vga(line)
    screens.read_graphics(line)
    slots.place_rest(line)
    basics.read_environment(line)
    _say_defaults(line)
    _read_absent(line)
    _sort(line)


def _say_defaults(line: Line) -> None:
    """What a PC has without being asked, and nobody misses."""
    if not line.has_defaults or not line.board.is_x86:
        return
    disks, board = line.devices.all("disk"), line.board
    kinds = {disk.get("device") for disk in disks}
    third = any(node.value("target/@dev") in ("hdc", "sdc") for node in disks)
    missing = []
    if "cdrom" not in kinds and not third:
        missing.append("an empty CD-ROM drive")
    if "floppy" not in kinds and board.is_i440fx:
        missing.append("an empty floppy drive")
    if not line.devices.all("parallel") and not line.every("-parallel"):
        missing.append("a parallel port")
    if missing:
        line.note("changed", f"QEMU also has {', '.join(missing)} where none is named: left out")


def _sort(line: Line) -> None:
    """Devices stand in the order of the arguments that they were read from; those of none come last."""
    last = 2 * len(line.arguments) + 2

    def place(node: Node) -> int:
        return min(
            (a.place.index for a in line.sources.get(id(node), ()) if a.flag != "-audiodev"), default=last
        )

    head = [node for node in line.devices.children if node.tag == "emulator"]
    rest = [node for node in line.devices.children if node.tag != "emulator"]
    line.devices.children = head + sorted(rest, key=place)


def _read_device(line: Line, argument: Argument, host: Host) -> None:
    driver = argument.bag.peek("driver") or ""
    reader = find_reader(driver, host)
    if reader is None:
        line.reasons[id(argument)] = f"libvirt has no device {driver}"
        slots.wait_kept(line, argument)
        return
    line.read_one(argument, lambda line, argument, bag: reader(line, argument))
    if not argument.read:
        slots.wait_kept(line, argument)


def find_reader(driver: str, host: Host) -> Reader | None:
    """What reads a device."""
    base = split_driver(driver)[0]
    if places.controller_type(driver):
        return places.read_controller
    if driver in ("isa-fdc", "vmgenid", "vmcoreinfo", "nec-usb-xhci"):
        return _BOARD.get(driver)
    if disks.is_disk(driver):
        return disks.read_disk
    if nics.is_card(driver):
        return nics.read_card
    if screens.is_video(driver):
        return screens.read_video
    if sound.is_sound(driver):
        return sound.read_sound
    if base in _MEMORY:
        return lambda line, argument: memory.read_memory_device(line, argument, host)
    return READERS.get(base)


def _floppy_controller(line: Line, argument: Argument) -> None:
    """q35's own, which comes with the first floppy."""
    bag = argument.bag
    bag.drop("driver", "id")
    for letter in "AB":
        order = bag.take(f"bootindex{letter}")
        if order is not None:
            line.chipset.floppy_boot[letter] = order
    line.say_left(bag)


def _generation(line: Line, argument: Argument) -> None:
    bag = argument.bag
    bag.drop("driver", "id")
    put(line.root, "genid", bag.take("guid"))
    line.say_left(bag)


def _core_information(line: Line, argument: Argument) -> None:
    argument.bag.drop("driver", "id")
    put(line.root, "features/vmcoreinfo/@state", "on")


_BOARD: dict[str, Reader] = {
    "isa-fdc": _floppy_controller,
    "vmcoreinfo": _core_information,
    "vmgenid": _generation,
}


def _read_absent(line: Line) -> None:
    """What libvirt would add, but the command does not have."""
    devices = line.devices
    if not devices.all("memballoon"):
        devices.add("memballoon", {"model": "none"})
    usb = [c for c in devices.all("controller") if c.get("type") == "usb"]
    # a pseries machine with a screen has a keyboard and a mouse, and USB for them
    has_own = line.board.is_pseries and not line.by_libvirt
    if not (usb or line.buses.usb_devices or line.chipset.usb or has_own):
        devices.add("controller", {"type": "usb", "index": "0", "model": "none"})
    if line.chipset.root_bus:
        root = "pcie-root" if line.board.is_q35 else "pci-root"
        controller = devices.add("controller", {"type": "pci", "index": "0", "model": root})
        if "hole64" in line.chipset.root_bus:
            put(controller, "pcihole64/@unit", "KiB")
            put(controller, "pcihole64", line.chipset.root_bus["hole64"])
        put(controller, "target/@hotplug", line.chipset.root_bus.get("hotplug"))
    if line.board.is_x86 and not devices.all("video"):
        devices.append(Node("video", {}, children=[Node("model", {"type": "none"})]))
