"""USB: controllers have ports, and hubs on ports have more.  A device is known by the way to it: ``1.2``.

https://libvirt.org/formatdomain.html#usb-hubs
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from qemushim.address.walk import devices_in_order, index_of, number
from qemushim.devices.address import USB_DEPTH
from qemushim.devices.base import Device
from qemushim.devices.input import Hub
from qemushim.document.node import Node
from qemushim.errors import AddressError, error

if TYPE_CHECKING:
    from qemushim.context import Define

HUB_PORTS = 8
#: ports of a controller, by model; xHCI ones may say it themselves, companions have none of their own
PORTS = {
    "ehci": 6,
    "ich9-ehci1": 6,
    "ich9-uhci1": 0,
    "ich9-uhci2": 0,
    "ich9-uhci3": 0,
    "nec-xhci": 4,
    "none": 0,
    "pci-ohci": 3,
    "piix3-uhci": 2,
    "piix4-uhci": 2,
    "qemu-xhci": 4,
    "qusb1": 0,
    "qusb2": 0,
    "vt82c686b-uhci": 2,
}
DEFAULT_PORTS = 2
XHCI = frozenset({"nec-xhci", "qemu-xhci"})

Path = tuple[int, ...]


class UsbHub:
    """A controller's root hub, or a hub on a port."""

    __slots__ = ("_low", "above", "depth", "hubs", "open", "ports", "used")

    def __init__(self, ports: int, above: UsbHub | None = None) -> None:
        self.ports = ports
        self.above = above
        #: hubs on the way here
        self.depth: int = above.depth + 1 if above is not None else 0
        self.used: set[int] = set()
        self.hubs: dict[int, UsbHub] = {}
        #: free ports here and below
        self.open = ports
        self._low = 1

    def take(self, port: int) -> None:
        self.used.add(port)
        self._count(-1)

    def give(self, port: int) -> None:
        self.used.discard(port)
        self._low = min(self._low, port)
        hub = self.hubs.pop(port, None)
        self._count(1 - (hub.open if hub is not None else 0))

    def plug(self, port: int) -> None:
        """A hub on a port that is taken.  One as deep as USB goes gives no ports that could be used."""
        ports = HUB_PORTS if self.depth + 1 < USB_DEPTH else 0
        self.hubs[port] = UsbHub(ports, self)
        self._count(ports)

    def _count(self, change: int) -> None:
        hub: UsbHub | None = self
        while hub is not None:
            hub.open += change
            hub = hub.above

    def find(self) -> Path | None:
        """The way to the lowest free port here, else below the first hub that has one."""
        while self._low in self.used:
            self._low += 1
        if self._low <= self.ports:
            return (self._low,)
        for port, hub in sorted(self.hubs.items()):
            below = hub.find() if hub.open else None
            if below is not None:
                return (port, *below)
        return None

    def every(self) -> Iterator[Path]:
        yield from ((port,) for port in range(1, self.ports + 1) if port not in self.used)
        for port, hub in sorted(self.hubs.items()):
            yield from ((port, *rest) for rest in hub.every())


class UsbPlaces:
    """The ports of all USB buses of a guest."""

    def __init__(self) -> None:
        self.buses: dict[int, UsbHub] = {}

    def add(self, bus: int, ports: int) -> None:
        """A controller; several of one index are one bus, of which the first that has ports counts."""
        known = self.buses.get(bus)
        if known is None or known.ports < ports:
            self.buses[bus] = UsbHub(ports)

    def reserve(self, bus: int, path: Path, node: Node | None = None, *, hub: bool = False) -> None:
        """Take a port; ``hub``: what is plugged in gives ports itself.

        Raises ``AddressError`` where the port is taken, or nothing leads there.
        """
        above = self._above(bus, path, node)
        port = path[-1]
        if port in above.used:
            raise self._error(f"Duplicate USB address bus {bus} port {_text(path)}", node)
        above.take(port)
        if hub:
            above.plug(port)

    def next(
        self, bus: int | None = None, node: Node | None = None, *, hub: bool = False
    ) -> tuple[int, Path]:
        """Take the lowest free port of one bus, or of the first that has one; or ``AddressError``."""
        if bus is not None and bus not in self.buses:
            raise self._missing(bus, node)
        for number_ in sorted(self.buses) if bus is None else (bus,):
            path = self.buses[number_].find() if self.buses[number_].open > 0 else None
            if path is not None:
                self.reserve(number_, path, node, hub=hub)
                return number_, path
        raise AddressError("internal error: No free USB ports", element=node, hint=self.drawing())

    def release(self, bus: int, path: Path) -> None:
        """Give a port back, with all that was behind it; one that is not taken is no mistake."""
        hub = self.buses.get(bus)
        for port in path[:-1]:
            hub = hub.hubs.get(port) if hub is not None else None
        if hub is not None and path[-1] in hub.used:
            hub.give(path[-1])

    def free(self) -> Iterator[tuple[int, Path]]:
        """The free ports, bus by bus."""
        for bus, hub in sorted(self.buses.items()):
            yield from ((bus, path) for path in hub.every())

    @property
    def open(self) -> int:
        return sum(hub.open for hub in self.buses.values())

    def _above(self, bus: int, path: Path, node: Node | None) -> UsbHub:
        """The hub whose port the last number of a path is."""
        hub = self.buses.get(bus)
        if hub is None:
            raise self._missing(bus, node)
        for depth, port in enumerate(path):
            inside = 1 <= port <= hub.ports
            if depth == len(path) - 1:
                if not inside:
                    raise self._error(f"requested USB port {_text(path)} not present on USB bus {bus}", node)
                return hub
            if not inside:
                why = f"port {port} out of range in USB address bus: {bus} port: {_text(path)}"
                raise self._error(why, node)
            below = hub.hubs.get(port)
            if below is None:
                why = f"there is no hub at port {port} in USB address bus: {bus} port: {_text(path)}"
                raise self._error(why, node)
            hub = below
        raise AssertionError("a path has at least one port")

    def _missing(self, bus: int, node: Node | None) -> AddressError:
        return self._error(f"USB bus {bus} requested but no controller with that index is present", node)

    def _error(self, message: str, node: Node | None) -> AddressError:
        return AddressError(f"XML error: {message}", element=node, hint=self.drawing())

    def drawing(self) -> str:
        if not self.buses:
            return "there are no USB controllers"
        return "; ".join(f"bus {bus}: {_draw(hub)}" for bus, hub in sorted(self.buses.items()))


def _draw(hub: UsbHub) -> str:
    ports = (
        f"{port} ({_draw(hub.hubs[port])})" if port in hub.hubs else str(port) for port in sorted(hub.used)
    )
    return f"{len(hub.used)} of {hub.ports} ports in use: {', '.join(ports) or 'none'}"


def _text(path: Path) -> str:
    return ".".join(str(port) for port in path)


# -- who uses USB ------------------------------------------------------------------------------------------

#: tag → whether the device is a USB device
_USERS: dict[str, Callable[[Node], bool]] = {
    "controller": lambda node: node.get("type") == "ccid",
    "disk": lambda node: node.value("target/@bus") == "usb",
    "filesystem": lambda node: node.value("driver/@type") == "mtp",
    "hostdev": lambda node: node.get("type") == "usb",
    "hub": lambda node: (node.get("type") or "usb") == "usb",
    "input": lambda node: node.get("bus") == "usb",
    "interface": lambda node: node.value("model/@type") == "usb-net",
    "redirdev": lambda node: (node.get("bus") or "usb") == "usb",
    "serial": lambda node: node.value("target/@type") == "usb-serial",
    "sound": lambda node: node.get("model") == "usb",
}


def is_usb(device: Device) -> bool:
    """A device for a USB bus; one that the document puts elsewhere is left there, and refused later.

    A hub is nowhere else, whatever the document says.
    """
    want = _USERS.get(device.tag)
    if want is None or not want(device.node):
        return False
    return device.tag == "hub" or device.address_type in ("", "none", "usb")


def _given(device: Device) -> tuple[int, Path] | None:
    """The bus and port that a device has; ``None`` where one of them is open."""
    node = device.node.child("address")
    if node is None or node.get("type") != "usb" or not node.get("port"):
        return None
    path = tuple(int(port) for port in (node.get("port") or "").split("."))
    return (number(node, "bus"), path) if path != (0,) else None


def _bus_wanted(device: Device) -> int | None:
    node = device.node.child("address")
    if node is None or node.get("type") != "usb" or node.get("bus") is None:
        return None
    return number(node, "bus")


def usb_buses(d: Define) -> UsbPlaces:
    """The buses of a guest with nothing on them."""
    places = UsbPlaces()
    for controller in d.domain.lists["controller"]:
        if controller.node.get("type") == "usb":
            model = controller.node.get("model") or ""
            ports = PORTS.get(model, DEFAULT_PORTS)
            if model in XHCI:
                ports = number(controller.node, "ports", ports)
            if ports:
                places.add(index_of(controller), ports)
    return places


def occupied_usb(d: Define) -> UsbPlaces:
    """The buses of a guest, with the hubs first and then the devices that have a port."""
    places = usb_buses(d)
    users = [device for device in devices_in_order(d.domain) if is_usb(device)]
    if not places.buses:
        return places
    for hubs in (True, False):
        for device in users:
            given = _given(device)
            if given is not None and (device.tag == "hub") is hubs:
                places.reserve(*given, device.node, hub=hubs)
    return places


def place_usb(places: UsbPlaces, device: Device) -> None:
    """Give a USB device the lowest free port, on the bus that it names."""
    bus, path = places.next(_bus_wanted(device), device.node, hub=device.tag == "hub")
    device.set_address("usb", bus=bus, port=_text(path))


def assign_usb(d: Define) -> None:
    """Ports for all USB devices, and hubs where there are too few.

    A stored definition without ports got none when it was made: they are decided when it starts.
    """
    users = [device for device in devices_in_order(d.domain) if is_usb(device)]
    if not users:
        return
    open_ = [device for device in users if _given(device) is None]
    if open_ and not (d.update or d.start):
        return
    _add_hubs(d, len(users))
    places = occupied_usb(d)
    if not places.buses:
        raise error.unsupported(
            "USB is disabled for this domain, but USB devices are present in the domain XML",
            users[0].node,
            "add <controller type='usb' model='qemu-xhci'/>",
        )
    for hub in d.domain.lists["hub"]:
        if _given(hub) is None:
            place_usb(places, hub)
    for device in open_:
        if device.tag != "hub":
            place_usb(places, device)


def _add_hubs(d: Define, devices: int) -> None:
    """As many hubs as it takes; each has eight ports, takes one, and one is kept free for the next."""
    places = usb_buses(d)
    available = places.open + HUB_PORTS * len(d.domain.lists["hub"])
    if devices <= available or not places.buses:
        return
    for _ in range(-(-(devices - available + 1) // (HUB_PORTS - 1))):
        d.domain.add(Hub, {"type": "usb"})


def join_usb(device: Device, d: Define) -> None:
    """A port for one USB device that joins the guest; no hub is added."""
    places = occupied_usb(d)
    given = _given(device)
    if given is not None:
        places.reserve(*given, device.node, hub=device.tag == "hub")
    else:
        place_usb(places, device)
