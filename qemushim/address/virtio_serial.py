"""virtio-serial: a controller has ports, which channels and consoles are plugged into."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.address.numbers import Numbers
from qemushim.address.walk import index_of, number
from qemushim.devices.base import Device
from qemushim.devices.controller import Controller
from qemushim.document.node import Node
from qemushim.errors import AddressError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemushim.context import Define

#: ports of a controller that does not say
PORTS = 31
#: ports that a guest's console driver takes for its own, which channels leave alone
FIRST_CHANNEL_PORT = 1


class VirtioSerialPlaces:
    """The ports of each controller."""

    def __init__(self) -> None:
        self._ports: dict[int, Numbers] = {}

    def add(self, index: int, ports: int = PORTS) -> None:
        self._ports[index] = Numbers(
            0,
            ports - 1,
            lambda port: f"XML error: virtio serial port {port} on controller {index} is already occupied",
            f"XML error: Unable to find a free virtio-serial port on controller {index}",
        )

    def reserve(self, index: int, port: int, node: Node | None = None) -> None:
        """Take a port.  Raises ``AddressError`` where it is taken, or there is no such port."""
        ports = self._ports.get(index)
        if ports is None:
            why = f"virtio serial controller {index} is missing"
            raise AddressError(f"XML error: {why}", element=node, hint=self.drawing())
        if port > ports.last:
            why = f"virtio serial controller {index} does not have port {port}"
            raise AddressError(f"XML error: {why}", element=node, hint=self.drawing())
        ports.reserve(port, node)

    def next(self, start: int, index: int | None = None, node: Node | None = None) -> tuple[int, int] | None:
        """Take the lowest free port from ``start`` of one controller, or of the first that has one left.

        ``None``: no controller has.  Raises ``AddressError`` where the controller that was named has none.
        """
        if index is not None:
            ports = self._ports.get(index)
            if ports is None:
                why = f"XML error: virtio serial controller {index} is missing"
                raise AddressError(why, element=node, hint=self.drawing())
            return index, ports.next(node, start=start)
        for number_, ports in sorted(self._ports.items()):
            try:
                return number_, ports.next(node, start=start)
            except AddressError:
                continue
        return None

    def release(self, index: int, port: int) -> None:
        if index in self._ports:
            self._ports[index].release(port)

    def free(self) -> Iterator[tuple[int, int]]:
        """The free ports: (controller, port)."""
        for index, ports in sorted(self._ports.items()):
            yield from ((index, port) for port in ports.free())

    def unused_index(self) -> int:
        index = 0
        while index in self._ports:
            index += 1
        return index

    def drawing(self) -> str:
        if not self._ports:
            return "there are no virtio-serial controllers"
        return "; ".join(
            f"controller {index}: {ports.drawing()}" for index, ports in sorted(self._ports.items())
        )


def is_port(device: Device) -> bool:
    """A channel or console on a virtio-serial controller."""
    return device.tag in ("channel", "console") and device.node.value("target/@type") == "virtio"


def _written(device: Device) -> Node | None:
    node = device.node.child("address")
    return node if node is not None and node.get("type") == "virtio-serial" else None


def occupied_virtio_serial(d: Define) -> VirtioSerialPlaces:
    """The controllers, and the ports that devices of the definition have."""
    places = VirtioSerialPlaces()
    for controller in d.domain.lists["controller"]:
        if controller.node.get("type") == "virtio-serial":
            places.add(index_of(controller), number(controller.node, "ports", PORTS))
    for device in (*d.domain.lists["channel"], *d.domain.lists["console"]):
        node = _written(device)
        if node is not None and number(node, "port"):
            places.reserve(number(node, "controller"), number(node, "port"), node)
    return places


def place_virtio_serial(places: VirtioSerialPlaces, device: Device, d: Define) -> None:
    """Give a channel or console its port, on a new controller where all are full.

    Port 0 is the same as none.  QEMU finds the port of a console by itself: it is kept, but not written.
    """
    node = _written(device)
    if node is not None and number(node, "port"):
        return
    start = 0 if device.tag == "console" else FIRST_CHANNEL_PORT
    index = number(node, "controller") if node is not None else None
    found = places.next(start, index, device.node)
    if found is None:
        index = places.unused_index()
        d.domain.add(Controller, {"type": "virtio-serial", "index": str(index)})
        places.add(index)
        found = places.next(start, index, device.node)
        assert found is not None
    if node is not None or device.tag != "console":
        device.set_address("virtio-serial", controller=found[0], bus=0, port=found[1])


def assign_virtio_serial(d: Define) -> None:
    """Ports for the consoles, then for the channels."""
    ports = [device for tag in ("console", "channel") for device in d.domain.lists[tag] if is_port(device)]
    if not ports:
        return
    places = occupied_virtio_serial(d)
    for device in ports:
        place_virtio_serial(places, device, d)


def join_virtio_serial(device: Device, d: Define) -> None:
    """A port for one channel or console that joins the guest."""
    places = occupied_virtio_serial(d)
    for console in d.domain.lists["console"]:
        if is_port(console) and console is not device:
            place_virtio_serial(places, console, d)
    node = _written(device)
    if node is not None and number(node, "port"):
        places.reserve(number(node, "controller"), number(node, "port"), node)
    else:
        place_virtio_serial(places, device, d)
