"""How many more devices a guest takes, at its next start and while it runs, and what to add for more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from qemushim.address.drive import drive_address, is_scsi
from qemushim.address.needs import Kind
from qemushim.address.pci import PciTree
from qemushim.address.pcilayout import PciLayout
from qemushim.address.walk import index_of
from qemushim.devices import BY_TAG
from qemushim.devices.address import disk_index
from qemushim.devices.base import Device
from qemushim.devices.disk import drive_address_of
from qemushim.document.node import Node
from qemushim.document.parse import parse
from qemushim.errors import AddressError, ConfigError, error
from qemushim.inspect.survey import Survey, survey
from qemushim.inspect.topology import hotplugs_pci, topology

if TYPE_CHECKING:
    from qemushim.emulator.model import Emulator
    from qemushim.guest import Guest
    from qemushim.host import Host

#: where counting stops: more than this is “as many as you like”
MOST = 256
#: the most controllers that are added to make room
_MOST_ADDED = 64


@dataclass(frozen=True, slots=True)
class Sort:
    """A kind of device that people plug in."""

    #: what it is called here: ``nic``
    name: str
    #: in words
    words: str
    #: the bus that it takes a place of; ``virtio``: PCI or CCW, as virtio devices do
    bus: str
    #: its XML; ``{n}`` counts from 0, ``{hex}`` is the same in four digits, ``{dev}`` a target name not in use
    xml: str
    #: whether it can be plugged while the guest runs
    hotplug: bool = True


_DISK = "<disk type='file' device='disk'><source file='/tmp/{n}'/><target dev='{dev}' bus='%s'/></disk>"
_MAC = "<mac address='52:54:00:fe:{hex}'/>"
SORTS = (
    Sort(
        "nic",
        "network card, virtio",
        "virtio",
        f"<interface type='user'>{_MAC}<model type='virtio'/></interface>",
    ),
    Sort(
        "nic-pci",
        "network card, e1000",
        "pci",
        f"<interface type='user'>{_MAC}<model type='e1000'/></interface>",
    ),
    Sort("disk", "disk, virtio", "virtio", _DISK % "virtio"),
    Sort("disk-scsi", "disk, SCSI", "scsi", _DISK % "scsi"),
    Sort("disk-sata", "disk, SATA", "sata", _DISK % "sata", hotplug=False),
    Sort("disk-ide", "disk, IDE", "ide", _DISK % "ide", hotplug=False),
    Sort("disk-usb", "disk, USB", "usb", _DISK % "usb"),
    Sort(
        "hostdev",
        "assigned PCI device",
        "pci",
        "<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0x{hex4}' bus='0x01' slot='0x00' "
        "function='0x0'/></source></hostdev>",
    ),
    Sort(
        "channel",
        "virtio-serial channel",
        "virtio-serial",
        "<channel type='unix'><target type='virtio' name='org.example.{n}'/></channel>",
    ),
)
BY_NAME = {sort.name: sort for sort in SORTS}
#: prefix of target names by bus
_PREFIXES = {"ide": "hd", "virtio": "vd"}
_PORT, _BRIDGE, _EXPRESS_BRIDGE, _HOST_BRIDGE = (
    f"<controller type='pci' model='{model}' index='{{index}}'/>"
    for model in ("pcie-root-port", "pci-bridge", "pcie-to-pci-bridge", "pci-root")
)
#: bus → the controller that gives more of it
_GIVES = {
    "scsi": "<controller type='scsi' model='virtio-scsi' index='{index}'/>",
    "usb": "<controller type='usb' model='qemu-xhci' index='{index}' ports='15'/>",
    "virtio-serial": "<controller type='virtio-serial' index='{index}'/>",
}


@dataclass(frozen=True, slots=True)
class Count:
    """How many more of one kind there can be.  ``MOST`` stands for that many or more."""

    sort: str
    words: str
    #: at the next start, with the controllers that libvirt adds by itself
    cold: int
    #: while the guest runs, as it is
    hot: int
    #: the controller that makes room for more while it runs, ``""`` where none does
    more: str
    #: why there is none at all, ``""`` where there is
    why: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to add so that what is wanted can be had."""

    #: wanted kinds and how many of each
    wanted: tuple[tuple[int, str], ...]
    #: XML of controllers to add, one each
    add: tuple[str, ...]
    #: the document with them
    guest: Guest
    #: while the guest runs, rather than at its next start
    hot: bool = True


def counts(guest: Guest, emulator: Emulator, host: Host) -> list[Count]:
    """How many more of each kind fit.  Raises what ``Guest.define`` raises."""
    s = survey(guest, emulator, host)
    found = []
    #: kinds of the same need take the same slots
    known: dict[object, tuple[int, str]] = {}
    for sort in SORTS:
        key = PciLayout(s.d).need(_device(sort)) if _on_pci(s, sort) and s.d.board.has_pci else sort.name
        if key not in known:
            known[key] = _cold(s, sort, emulator, host)
        cold, why = known[key]
        hot = _hot(s, sort) if cold else 0
        found.append(
            Count(
                sort.name, sort.words, cold, hot, _giver(s, guest, sort) if cold and sort.hotplug else "", why
            )
        )
    return found


def plan(guest: Guest, wanted: Iterable[tuple[int, str]], emulator: Emulator, host: Host) -> Plan:
    """Controllers to add to a document so that devices can be plugged into the guest while it runs.

    ``wanted``: how many of which kind (``BY_NAME``), all of them at once.  The guest is left as it is.  Raises
    ``ConfigError`` where no number of controllers makes enough room.
    """
    wanted = tuple(wanted)
    added: list[str] = []
    twin = guest
    while True:
        s = survey(twin, emulator, host)
        # a controller takes a slot itself, so what fitted before is looked at again
        short = next((n for n in range(1, len(wanted) + 1) if not _fit(s, wanted[:n])), 0)
        if not short:
            return Plan(wanted, tuple(added), twin)
        grown = _grown(s, twin, BY_NAME[wanted[short - 1][1]], emulator, host)
        if grown is None or len(added) >= _MOST_ADDED:
            raise _no_room(s, *wanted[short - 1])
        recipe, twin = grown
        added += recipe


def plan_cold(guest: Guest, wanted: Iterable[tuple[int, str]], emulator: Emulator, host: Host) -> Plan:
    """The same for the guest's next start, where a definition adds by itself what it can.

    Raises ``ConfigError`` where all of them together do not fit, in libvirt's words.
    """
    wanted = tuple(wanted)
    s = survey(guest, emulator, host)
    full = s.guest.copy()
    for node in samples(s, wanted):
        full.domain.adopt(node)
    full.define(emulator, host)
    return Plan(wanted, (), guest, hot=False)


def samples(s: Survey, wanted: Iterable[tuple[int, str]]) -> Iterator[Node]:
    """Devices of the kinds that are wanted, all with names of their own."""
    names = _Names(s)
    sorts = [BY_NAME[name] for number, name in wanted for _ in range(number)]
    for number, sort in enumerate(sorts):
        yield _sample(sort, number, names.next(sort))


def _grown(
    s: Survey, guest: Guest, sort: Sort, emulator: Emulator, host: Host
) -> tuple[tuple[str, ...], Guest] | None:
    """The document with a controller more, and with the port that this needs; ``None`` where it can not be had."""
    xml = _giver(s, guest, sort)
    recipes: list[tuple[str, ...]] = [(xml,)] if xml else []
    if "pcie-to-pci-bridge" in xml:
        index = _next_index(s, "pci")
        recipes.append((_PORT.format(index=index), xml.replace(f"'{index}'", f"'{index + 1}'")))
    for recipe in recipes:
        twin = guest.copy()
        for controller in recipe:
            twin.domain.adopt(parse(controller))
        try:
            twin.define(emulator, host)
        except ConfigError:
            continue
        return recipe, twin
    return None


def _no_room(s: Survey, number: int, name: str) -> ConfigError:
    sort = BY_NAME[name]
    if not sort.hotplug:
        return error.not_supported(
            f"{sort.words}: none can be plugged while the guest runs", hint="virtio, SCSI or USB"
        )
    machine = s.domain.machine_type
    return error.not_supported(
        f"no controller makes room for {number} × {sort.words} in a running {machine} guest"
    )


# -- at the next start -------------------------------------------------------------------------------------


def _cold(s: Survey, sort: Sort, emulator: Emulator, host: Host) -> tuple[int, str]:
    """The most devices that a definition takes, found by trying; and why not even one."""

    def refusal(number: int) -> str:
        guest = s.guest.copy()
        for node in samples(s, [(number, sort.name)]):
            guest.domain.adopt(node)
        try:
            guest.define(emulator, host)
        except ConfigError as problem:
            return problem.message
        return ""

    first = refusal(1)
    if first:
        return 0, first
    fits, fails = 1, MOST + 1
    middle = MOST
    while fails - fits > 1:
        if refusal(middle):
            fails = middle
        else:
            fits = middle
        middle = (fits + fails) // 2
    return fits, ""


def _sample(sort: Sort, number: int, name: str) -> Node:
    digits = f"{number:04x}"
    mac = f"{digits[:2]}:{digits[2:]}"
    xml = sort.xml.replace("{n}", str(number)).replace("{hex}", mac).replace("{hex4}", digits)
    return parse(xml.replace("{dev}", name))


class _Names:
    """Target names that no disk has."""

    def __init__(self, s: Survey) -> None:
        self._taken = {disk.node.value("target/@dev") for disk in s.domain.lists["disk"]}
        self._next: Counter[str] = Counter()

    def next(self, sort: Sort) -> str:
        """One more for a disk of a kind; ``""`` for what is no disk."""
        if "{dev}" not in sort.xml:
            return ""
        prefix = _PREFIXES.get(sort.bus, "sd")
        while True:
            name = prefix + _letters(self._next[prefix])
            self._next[prefix] += 1
            if name not in self._taken:
                return name


def _letters(index: int) -> str:
    """0 is ``a``, 25 ``z``, 26 ``aa``."""
    text = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        text = chr(ord("a") + rest) + text
    return text


# -- while the guest runs ----------------------------------------------------------------------------------


def _hot(s: Survey, sort: Sort) -> int:
    """How many can be plugged into the guest as it is."""
    if not sort.hotplug:
        return 0
    tree = _tree(s)
    if sort.bus == "scsi":
        names = _Names(s)
        return _scsi_disks(s, tree, [names.next(sort) for _ in range(MOST)])
    if not _on_pci(s, sort):
        return min(MOST, _free_on(s, sort))
    return sum(1 for _ in _plug(s, tree, sort, MOST)) if tree is not None else 0


def _fit(s: Survey, wanted: Iterable[tuple[int, str]]) -> bool:
    """Whether all that is wanted can be plugged at once."""
    tree = _tree(s)
    room: dict[str, int] = {}
    names = _Names(s)
    for number, name in wanted:
        sort = BY_NAME[name]
        if not sort.hotplug:
            return False
        targets = [names.next(sort) for _ in range(number)]
        if _on_pci(s, sort):
            if tree is None or sum(1 for _ in _plug(s, tree, sort, number)) < number:
                return False
            continue
        if sort.bus == "scsi":
            if _scsi_disks(s, tree, targets) < number:
                return False
            continue
        room.setdefault(sort.bus, _free_on(s, sort))
        room[sort.bus] -= number
        if room[sort.bus] < 0:
            return False
    return True


def _on_pci(s: Survey, sort: Sort) -> bool:
    return sort.bus == "pci" or (sort.bus == "virtio" and not s.d.board.is_ccw)


def _free_on(s: Survey, sort: Sort) -> int:
    """Free places of all buses of a type."""
    kind = "ccw" if sort.bus == "virtio" else sort.bus
    return sum(bus.free for bus in topology(s).every() if bus.type == kind)


def _scsi_disks(s: Survey, tree: PciTree | None, targets: Iterable[str]) -> int:
    """How many SCSI disks can be plugged without an address: by its name a disk belongs to one controller.

    A controller that is not there is plugged before the disk, where there is a slot for it.
    """
    taken = {drive_address(device) for device in s.domain.every() if is_scsi(device)}
    known = {index_of(c) for c in s.domain.lists["controller"] if c.node.get("type") == "scsi"}
    controller = _next_scsi(s)
    found = 0
    for target in targets:
        place = drive_address_of("scsi", disk_index(target))
        if place is None or place in taken:
            continue
        for missing in range(place.controller + 1):
            if missing not in known:
                if not _takes_slot(s, tree, controller):
                    return found
                known.add(missing)
        found += 1
    return found


def _next_scsi(s: Survey) -> Device:
    """The controller that a disk brings along where its own is not there: one like the last, else the default one."""
    known = [c for c in s.domain.lists["controller"] if c.node.get("type") == "scsi"]
    model = known[-1].node.get("model") if known else None
    controller = BY_TAG["controller"](
        Node("controller", {"type": "scsi", **({"model": model} if model else {})})
    )
    controller.complete(s.d)
    return controller


def _takes_slot(s: Survey, tree: PciTree | None, device: Device) -> bool:
    """Plug a card into the tree; of CCW there is always a number more."""
    if s.d.board.is_ccw:
        return True
    if tree is None:
        return False
    try:
        tree.next(PciLayout(s.d).need(device)._replace(hotplug=True))
    except AddressError:
        return False
    return True


def _tree(s: Survey) -> PciTree | None:
    """The PCI buses of the guest, where cards can be plugged into any of them."""
    if not s.d.board.has_pci or not any(s.pci_controllers()) or not hotplugs_pci(s):
        return None
    layout = PciLayout(s.d)
    tree = layout.tree()
    layout.reserve_chipset(tree)
    return tree


def _device(sort: Sort) -> Device:
    node = _sample(sort, 0, f"{_PREFIXES.get(sort.bus, 'sd')}a")
    return BY_TAG[node.tag](node)


def _plug(s: Survey, tree: PciTree, sort: Sort, most: int) -> Iterator[None]:
    """Take a slot for one device after the other, until there is none."""
    device = _device(sort)
    need = PciLayout(s.d).need(device)._replace(hotplug=True)
    if need.kind is Kind.NONE:
        return
    for _ in range(most):
        try:
            tree.next(need)
        except AddressError:
            return
        yield


# -- what to add -------------------------------------------------------------------------------------------


def _giver(s: Survey, guest: Guest, sort: Sort) -> str:
    """The controller that makes room for more while the guest runs; ``""`` where there is none."""
    xml = _pci_giver(s, sort) if _on_pci(s, sort) else _GIVES.get(sort.bus, "")
    if not sort.hotplug or not xml:
        return ""
    kind = "pci" if _on_pci(s, sort) else sort.bus
    # a USB controller that the document does not name is there only as long as it names no other
    return xml.format(index=_next_index(s, kind) if kind != "usb" else _own_index(guest, kind))


def _next_index(s: Survey, kind: str) -> int:
    """Behind all controllers of the definition: numbers between are filled as they would be without it."""
    return 1 + max(
        (index_of(c) for c in s.domain.lists["controller"] if c.node.get("type") == kind), default=-1
    )


def _own_index(guest: Guest, kind: str) -> int:
    own = (c for c in guest.domain.lists["controller"] if c.node.get("type") == kind)
    return 1 + max(map(index_of, own), default=-1)


def _pci_giver(s: Survey, sort: Sort) -> str:
    if not hotplugs_pci(s) or not any(s.pci_controllers()):
        return ""
    if not s.d.board.has_pcie_root:
        return _HOST_BRIDGE if s.d.board.is_pseries else _BRIDGE
    need = PciLayout(s.d).need(_device(sort))
    return _PORT if need.kind is Kind.PCIE else _EXPRESS_BRIDGE


# -- data --------------------------------------------------------------------------------------------------


def counts_data(found: list[Count]) -> dict[str, Any]:
    """Ready for JSON (docs/slots.md has the schema)."""
    return {"schema": "qemushim.slots/1", "most": MOST, "counts": [asdict(count) for count in found]}


def plan_data(found: Plan) -> dict[str, Any]:
    """The same for a plan."""
    wanted = [{"sort": name, "number": number} for number, name in found.wanted]
    return {"schema": "qemushim.slots-plan/1", "wanted": wanted, "hot": found.hot, "add": list(found.add)}
