"""Which PCI slot each card gets from a command line that does not say it, on QEMU 0.9.1 to 1.2.

Legacy options (``-drive if=virtio``, ``-net nic``, ``-soundhw`` …) leave the slot to QEMU, which gives every
card the lowest free one, kind by kind in an order of its own.  That order differs between releases and is
written down here as a table.  The orders of 0.9.1, kvm-83, 0.10 – 0.13 and 0.15 are measured; those of 1.0 –
1.2 are taken to be 0.15's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from qemushim.command.option import Option
from qemushim.emulator.model import Emulator

#: slots of one PCI bus
SLOTS = 32
#: disks of one LSI controller
LSI_UNITS = 7

#: model of ``-net nic`` → vendor:product
NIC_IDS = {
    "e1000": "8086:100e",
    "i82551": "8086:1209",
    "i82557b": "8086:1229",
    "i82559er": "8086:1209",
    "ne2k_pci": "10ec:8029",
    "pcnet": "1022:2000",
    "rtl8139": "10ec:8139",
    "virtio": "1af4:1000",
}

#: word of ``-vga`` → vendor:product
VGA_IDS = {"cirrus": "1013:00b8", "qxl": "1b36:0100", "std": "1234:1111", "vmware": "15ad:0405"}
_VGA_FLAGS = {"-std-vga": "std", "-vmwarevga": "vmware", "-cirrusvga": "cirrus"}

#: PCI cards of ``-soundhw``, in the order in which QEMU makes them, however they were asked for
SOUND_IDS = {"ac97": "8086:2415", "es1370": "1274:5000", "hda": "8086:2668"}

#: PCI cards of ``-device`` → vendor:product
DEVICE_IDS = {
    "AC97": "8086:2415",
    "ES1370": "1274:5000",
    "VGA": "1234:1111",
    "cirrus-vga": "1013:00b8",
    "i6300esb": "8086:25ab",
    "intel-hda": "8086:2668",
    "lsi": "1000:0012",
    "lsi53c895a": "1000:0012",
    "pci-assign": "",
    "piix3-usb-uhci": "8086:7020",
    "piix4-usb-uhci": "8086:7112",
    "virtio-balloon-pci": "1af4:1002",
    "virtio-blk-pci": "1af4:1001",
    "virtio-net-pci": "1af4:1000",
    "virtio-serial": "1af4:1003",
    "virtio-serial-pci": "1af4:1003",
    "vmware-svga": "15ad:0405",
    **{model: ids for model, ids in NIC_IDS.items() if model != "virtio"},
}

_KINDS = {
    "1af4:1000": "nic",
    "1af4:1001": "virtio-blk",
    "1af4:1002": "balloon",
    "1af4:1003": "virtio-console",
}


class Argument(NamedTuple):
    """An option of a command line, its value, and what stands for it in the result."""

    flag: str
    value: str
    source: object = None


class Card(NamedTuple):
    """A card, where it sits, and what asked for it."""

    slot: int
    function: int
    kind: str
    #: ``vendor:product``, as ``info pci`` prints it
    ids: str
    #: of the ``Argument``; ``None`` for what is always there
    source: object = None
    #: path of a disk, MAC of a NIC, number of a controller, model of a sound card
    detail: str = ""


class Lost(NamedTuple):
    """What a command line asks for and the guest does not get, silently."""

    source: object
    reason: str


@dataclass
class Layout:
    """The cards of bus 0 by slot, and what fell by the wayside."""

    cards: list[Card] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)

    def of(self, source: object) -> Card | None:
        """The card that an argument made."""
        return next((card for card in self.cards if card.source is source), None)


@dataclass(frozen=True, slots=True)
class Family:
    """Releases that hand out slots alike."""

    name: str
    #: kinds of cards in the order in which they come to the bus; VGA is before all of them
    order: tuple[str, ...]
    default_nic: str = "ne2k_pci"
    #: virtio disks go by their index, and the first missing index ends the row
    virtio_by_index: bool = False
    #: a balloon is there unless it is declined
    default_balloon: bool = False
    #: ``addr=`` of legacy options counts
    legacy_addr: bool = False
    #: a ``-drive`` with a key that is not known is dropped, and the guest starts without it
    drops_unknown_drives: bool = False


_OLD = ("nic", "sound", "lsi", "virtio-blk", "balloon", "virtio-console")
_NEW = ("nic", "sound", "lsi", "device", "virtio-blk", "virtio-console", "watchdog")

#: from this version on (development versions count as the release they lead to) → how slots are handed out
_FAMILIES: tuple[tuple[tuple[int, int, int], Family], ...] = (
    ((0, 12, 50), Family("0.13", _NEW, "e1000", legacy_addr=True)),
    (
        (0, 11, 50),
        Family(
            "0.12",
            ("nic", "sound", "lsi", "virtio-console", "device", "virtio-blk", "watchdog"),
            "e1000",
            legacy_addr=True,
        ),
    ),
    (
        (0, 10, 50),
        Family("0.11", ("watchdog", *_OLD), virtio_by_index=True, default_balloon=True, legacy_addr=True),
    ),
    ((0, 9, 50), Family("0.10", _OLD, virtio_by_index=True, default_balloon=True)),
)
_PLAIN_091 = Family("0.9.1", ("nic", "sound", "lsi"))
_EARLY_KVM = Family("kvm-83", _OLD, virtio_by_index=True, default_balloon=True)
#: plain releases that drop a drive with an unknown key
_DROPPING = ((0, 11, 50), (0, 14, 50))


def family(emulator: Emulator) -> Family:
    """How that binary hands out slots."""
    found = next((family for start, family in _FAMILIES if emulator.version >= start), None)
    if found is None:
        found = _EARLY_KVM if emulator.is_kvm_fork else _PLAIN_091
    if emulator.is_kvm_fork:
        return replace(found, default_nic="rtl8139")
    first, end = _DROPPING
    return replace(found, drops_unknown_drives=first <= emulator.version < end)


# -- reading a command line ----------------------------------------------------------------------------------


def arguments(words: Sequence[str]) -> list[Argument]:
    """Words of a command line (without the binary) as options; the source of each is its number."""
    found: list[Argument] = []
    for word in words:
        if word.startswith("-") and len(word) > 1:
            found.append(Argument(word, "", len(found)))
        elif found:
            found[-1] = found[-1]._replace(value=word)
    return found


def option_arguments(options: Iterable[Option]) -> list[Argument]:
    """Options of a ``Command``; each stands for itself."""
    return [Argument(option.flag, option.text or "", option) for option in options]


def parameters(value: str) -> tuple[str, dict[str, str]]:
    """``head,key=value,…`` → the first word, and the keys; a doubled comma is one of the value."""
    parts = value.replace(",,", "\0").split(",")
    pairs = [part.replace("\0", ",").partition("=") for part in parts]
    head = pairs[0][0] if not pairs[0][1] else ""
    return head, {key: text for key, equals, text in pairs if equals}


class _Nic(NamedTuple):
    model: str
    addr: str
    mac: str
    source: object


class _Drive(NamedTuple):
    number: int
    addr: str
    path: str
    source: object


class _Device(NamedTuple):
    driver: str
    keys: dict[str, str]
    source: object


@dataclass
class _Wanted:
    """What a command line asks of the PCI bus."""

    family: Family
    vga: str = "cirrus"
    vga_source: object = None
    defaults: bool = True
    usb: object = None
    power: bool = True
    isa_only: bool = False
    network: bool = False
    nics: list[_Nic] = field(default_factory=list)
    sounds: dict[str, object] = field(default_factory=dict)
    #: (bus, unit) → source
    scsi: dict[tuple[int, int], object] = field(default_factory=dict)
    virtio: dict[int, _Drive] = field(default_factory=dict)
    consoles: list[object] = field(default_factory=list)
    watchdog: tuple[str, object] | None = None
    balloon: _Device | None = None
    devices: list[_Device] = field(default_factory=list)
    paths: dict[str, str] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)


def _net(wanted: _Wanted, argument: Argument) -> None:
    wanted.network = True
    head, keys = parameters(argument.value)
    if argument.flag == "-net" and head == "nic":
        model = keys.get("model") or wanted.family.default_nic
        wanted.nics.append(_Nic(model, keys.get("addr", ""), keys.get("macaddr", ""), argument.source))


def _drive(wanted: _Wanted, argument: Argument) -> None:
    _, keys = parameters(argument.value)
    if "boot" in keys and wanted.family.drops_unknown_drives:
        wanted.lost.append(
            Lost(argument.source, "this QEMU does not know boot= and starts without the drive")
        )
        return
    if "id" in keys:
        wanted.paths[keys["id"]] = keys.get("file", "")
    kind = keys.get("if", "ide")
    if kind == "scsi":
        wanted.scsi[_scsi_place(wanted.scsi, keys)] = argument.source
    elif kind == "virtio":
        index = int(keys["index"]) if "index" in keys else _first_free(wanted.virtio)
        wanted.virtio[index] = _Drive(index, keys.get("addr", ""), keys.get("file", ""), argument.source)


def _scsi_place(taken: dict[tuple[int, int], object], keys: dict[str, str]) -> tuple[int, int]:
    if "index" in keys:
        return divmod(int(keys["index"]), LSI_UNITS)
    bus = int(keys.get("bus", "0"))
    if "unit" in keys:
        return bus, int(keys["unit"])
    return next((b, u) for b in range(bus, bus + SLOTS) for u in range(LSI_UNITS) if (b, u) not in taken)


def _first_free(taken: dict[int, _Drive]) -> int:
    return next(number for number in range(len(taken) + 1) if number not in taken)


def _vga(wanted: _Wanted, argument: Argument) -> None:
    wanted.vga = _VGA_FLAGS.get(argument.flag) or argument.value
    wanted.vga_source = argument.source


def _sound(wanted: _Wanted, argument: Argument) -> None:
    named = argument.value.split(",")
    for name in SOUND_IDS if named == ["all"] else named:
        wanted.sounds.setdefault(name, argument.source)


def _balloon(wanted: _Wanted, argument: Argument) -> None:
    head, keys = parameters(argument.value)
    wanted.balloon = _Device("virtio-balloon-pci", keys, argument.source) if head == "virtio" else None
    if head == "virtio" and not wanted.family.default_balloon:
        wanted.devices.append(wanted.balloon or _Device(head, keys, None))
    if head != "virtio":
        wanted.family = replace(wanted.family, default_balloon=False)


def _device(wanted: _Wanted, argument: Argument) -> None:
    driver, keys = parameters(argument.value)
    wanted.devices.append(_Device(driver, keys, argument.source))


def _usb(wanted: _Wanted, argument: Argument) -> None:
    wanted.usb = wanted.usb or argument.source or True


def _watchdog(wanted: _Wanted, argument: Argument) -> None:
    wanted.watchdog = (argument.value, argument.source)


def _console(wanted: _Wanted, argument: Argument) -> None:
    wanted.consoles.append(argument.source)


def _machine(wanted: _Wanted, argument: Argument) -> None:
    wanted.isa_only = argument.value == "isapc"


def _no_acpi(wanted: _Wanted, argument: Argument) -> None:
    wanted.power = False


def _no_defaults(wanted: _Wanted, argument: Argument) -> None:
    wanted.defaults = False


_READERS: dict[str, Callable[[_Wanted, Argument], None]] = {
    "-M": _machine,
    "-balloon": _balloon,
    "-cirrusvga": _vga,
    "-device": _device,
    "-drive": _drive,
    "-net": _net,
    "-netdev": _net,
    "-no-acpi": _no_acpi,
    "-nodefaults": _no_defaults,
    "-soundhw": _sound,
    "-std-vga": _vga,
    "-usb": _usb,
    "-usbdevice": _usb,
    "-vga": _vga,
    "-virtioconsole": _console,
    "-vmwarevga": _vga,
    "-watchdog": _watchdog,
}


# -- filling the bus -----------------------------------------------------------------------------------------


class _Bus:
    """Bus 0 while it fills."""

    def __init__(self, wanted: _Wanted) -> None:
        self.wanted = wanted
        self.cards: dict[tuple[int, int], Card] = {}
        self.lost = wanted.lost
        self.macs = 0

    def fix(
        self, slot: int, function: int, kind: str, ids: str, source: object = None, detail: str = ""
    ) -> None:
        self.cards[slot, function] = Card(slot, function, kind, ids, source, detail)

    def add(self, kind: str, ids: str, source: object, detail: str = "", addr: str = "") -> None:
        """A card at its own address, or in the lowest free slot."""
        if addr:
            slot, function = read_addr(addr)
            if slot >= SLOTS or (slot, function) in self.cards:
                why = "beyond the bus" if slot >= SLOTS else "taken"
                self.lost.append(Lost(source, f"slot {slot:#x} is {why}"))
                return
        else:
            function = 0
            slot = next((s for s in range(SLOTS) if (s, 0) not in self.cards), SLOTS)
            if slot == SLOTS:
                self.lost.append(Lost(source, "no slot is left"))
                return
        self.fix(slot, function, kind, ids, source, detail)

    def mac(self, given: str) -> str:
        """The MAC of a NIC; those that are not told one are numbered."""
        if given:
            return given.lower()
        self.macs += 1
        return f"52:54:00:12:34:{0x56 + self.macs - 1:02x}"


def read_addr(text: str) -> tuple[int, int]:
    """``0x5`` or ``5.1`` (always hexadecimal) → slot and function."""
    slot, _, function = text.rpartition(":")[2].partition(".")
    return int(slot, 16), int(function or "0", 16)


def _chipset(bus: _Bus) -> None:
    wanted = bus.wanted
    bus.fix(0, 0, "host", "8086:1237")
    bus.fix(1, 0, "isa", "8086:7000")
    bus.fix(1, 1, "ide", "8086:7010")
    if wanted.usb is not None:
        bus.fix(1, 2, "uhci", "8086:7020", wanted.usb)
    if wanted.power:
        bus.fix(1, 3, "pm", "8086:7113")


def _add_vga(bus: _Bus) -> None:
    wanted = bus.wanted
    asked = wanted.vga_source is not None
    if wanted.vga in VGA_IDS and (asked or wanted.defaults):
        bus.add("vga", VGA_IDS[wanted.vga], wanted.vga_source, wanted.vga)


def _add_nics(bus: _Bus) -> None:
    wanted = bus.wanted
    nics = wanted.nics
    if not wanted.network and wanted.defaults:
        nics = [_Nic(wanted.family.default_nic, "", "", None)]
    for nic in nics:
        mac = bus.mac(nic.mac)
        if nic.model in NIC_IDS:
            addr = nic.addr if wanted.family.legacy_addr else ""
            bus.add("nic", NIC_IDS[nic.model], nic.source, mac, addr)


def _add_sounds(bus: _Bus) -> None:
    for name, ids in SOUND_IDS.items():
        if name in bus.wanted.sounds:
            bus.add("sound", ids, bus.wanted.sounds[name], name)


def _add_lsi(bus: _Bus) -> None:
    for number in range(1 + max((place[0] for place in bus.wanted.scsi), default=-1)):
        bus.add("lsi", "1000:0012", None, str(number))


def _add_virtio_disks(bus: _Bus) -> None:
    wanted = bus.wanted
    drives = list(wanted.virtio.values())
    if wanted.family.virtio_by_index:
        gap = _first_free(wanted.virtio)
        for drive in drives:
            if drive.number > gap:
                reason = f"index {drive.number} comes after a gap at {gap}: this QEMU stops there"
                bus.lost.append(Lost(drive.source, reason))
        drives = [wanted.virtio[index] for index in range(gap)]
    for drive in drives:
        bus.add("virtio-blk", "1af4:1001", drive.source, drive.path, drive.addr)


def _add_consoles(bus: _Bus) -> None:
    for source in bus.wanted.consoles:
        bus.add("virtio-console", "1af4:1003", source)


def _add_watchdog(bus: _Bus) -> None:
    if bus.wanted.watchdog is not None and bus.wanted.watchdog[0] == "i6300esb":
        bus.add("watchdog", "8086:25ab", bus.wanted.watchdog[1])


def _add_balloon(bus: _Bus) -> None:
    balloon = bus.wanted.balloon
    if balloon is not None or bus.wanted.family.default_balloon:
        source, addr = (balloon.source, balloon.keys.get("addr", "")) if balloon else (None, "")
        bus.add("balloon", "1af4:1002", source, addr=addr)


def _add_devices(bus: _Bus) -> None:
    for device in bus.wanted.devices:
        ids = DEVICE_IDS.get(device.driver)
        if ids is None or device.keys.get("bus", "pci.0") not in ("pci.0", "pci"):
            continue
        detail = bus.wanted.paths.get(device.keys.get("drive", ""), "")
        kind = _KINDS.get(ids, "nic" if device.driver in NIC_IDS else "device")
        if kind == "nic":
            detail = bus.mac(device.keys.get("mac", ""))
        bus.add(kind, ids, device.source, detail, device.keys.get("addr", ""))


_STAGES: dict[str, Callable[[_Bus], None]] = {
    "balloon": _add_balloon,
    "device": _add_devices,
    "lsi": _add_lsi,
    "nic": _add_nics,
    "sound": _add_sounds,
    "virtio-blk": _add_virtio_disks,
    "virtio-console": _add_consoles,
    "watchdog": _add_watchdog,
}


def layout(line: Iterable[Argument], releases: Family) -> Layout:
    """The PCI cards of a PC that was started with that command line, sorted by slot.

    What QEMU refuses to start with is not told apart here: the layout is the one of a line that starts.
    """
    wanted = _Wanted(releases)
    for argument in line:
        reader = _READERS.get(argument.flag)
        if reader is not None:
            reader(wanted, argument)
    if wanted.isa_only:
        return Layout([], wanted.lost)
    bus = _Bus(wanted)
    _chipset(bus)
    _add_vga(bus)
    for stage in wanted.family.order:
        _STAGES[stage](bus)
    return Layout([bus.cards[place] for place in sorted(bus.cards)], bus.lost)
