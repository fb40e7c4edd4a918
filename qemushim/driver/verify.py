"""Planned is actual: what a running QEMU says of where its devices sit, beside what the live document says.

Two sources: the object model, which knows every bus from the first moment on, and ``query-pci``, which tells what the
guest's firmware has found.  https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html#qapidoc-qom-get
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from qemushim.context import Build
from qemushim.devices.base import Device
from qemushim.devices.placement import address_properties, pci_bus_name
from qemushim.driver.pciinfo import PciRecord
from qemushim.errors import MonitorError
from qemushim.machine.domain import Domain

#: where QEMU keeps the devices that have an id
PERIPHERAL = "/machine/peripheral"
#: what of an address is asked of a device, and answered in the same terms
_ASKED = frozenset(
    (
        *("addr", "bus", "channel", "devno", "iobase", "irq", "lun", "nr", "port", "reg", "scsi-id", "slot"),
        "unit",
    )
)
#: PCI controllers that give a root bus: one with a bridge of the same name on it, where its devices sit, one without
_EXPANDER, _PCIE_EXPANDER = "pci-expander-bus", "pcie-expander-bus"


class Asked(Protocol):
    """A monitor that can be asked."""

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any: ...


class Misplaced(NamedTuple):
    """A device that is not where the document says."""

    device: str
    #: type of the address
    kind: str
    expected: str
    actual: str

    def __str__(self) -> str:
        return f"{self.device} is at {self.kind} {self.actual}, not at {self.expected}"


@dataclass
class Verdict:
    """What came of the comparison."""

    differences: list[Misplaced] = field(default_factory=list)
    #: address type → how many devices QEMU told of
    checked: Counter[str] = field(default_factory=Counter)
    #: ids of the devices that QEMU has
    devices: frozenset[str] = frozenset()


def peripherals(monitor: Asked) -> frozenset[str]:
    """The ids of all devices that QEMU has.  Raises ``MonitorError``."""
    found = monitor.execute("qom-list", {"path": PERIPHERAL})
    return frozenset(entry["name"] for entry in found if entry["type"].startswith("child<"))


def verify(monitor: Asked, b: Build) -> Verdict:
    """Ask for every device of the live domain that has an id; its addresses are corrected where they differ.

    Raises ``MonitorError``.
    """
    verdict = Verdict(devices=peripherals(monitor))
    for device in b.domain.every():
        if device.alias not in verdict.devices:
            continue
        kind = device.address_type
        expected = _expected(device, b)
        if not expected:
            continue
        try:
            actual = {name: _ask(monitor, device.alias, name) for name in expected}
        except MonitorError as problem:
            if not problem.kind:
                raise
            continue  # the guest has let go of it just now, or it is of a kind that does not tell
        if kind == "pci":
            expected["addr"] = _place(_number(str(expected["addr"])))
            actual["addr"] = _place(actual["addr"])
        verdict.checked[kind] += 1
        if {k: _text(v) for k, v in expected.items()} != {k: _text(v) for k, v in actual.items()}:
            verdict.differences.append(Misplaced(device.alias, kind, _spell(expected), _spell(actual)))
            if kind == "pci":
                _correct(device, str(actual["bus"]), actual["addr"], b)
    _complete_memory(monitor, b.domain)
    verdict.differences += _by_query_pci(monitor, b, verdict)
    return verdict


def _expected(device: Device, b: Build) -> dict[str, Any]:
    """What QEMU is to say of the device; nothing where it has no address that QEMU tells of."""
    if device.address_type == "ccid" and device.address is not None:
        # not said on the command line: there is one slot, of one reader
        readers = (c for c in b.domain.lists["controller"] if c.node.get("type") == "ccid")
        wanted = device.address.controller
        alias = next((c.alias for c in readers if int(c.node.get("index") or 0) == wanted), "")
        return {"bus": f"{alias}.0", "slot": device.address.ccid_slot}
    told = address_properties(device, b).items()
    return {name: value for name, value in told if name in _ASKED and value is not None}


def _ask(monitor: Asked, alias: str, name: str) -> Any:
    """A property of a device; for ``bus`` the name of the bus that it sits on."""
    path = f"{PERIPHERAL}/{alias}"
    found = monitor.execute("qom-get", {"path": path, "property": "parent_bus" if name == "bus" else name})
    return str(found).rpartition("/")[2] if name == "bus" else found


def _number(addr: str) -> int:
    """``0x2.0x1`` as QEMU counts slots and functions together."""
    slot, _, function = addr.partition(".")
    return int(slot, 16) << 3 | int(function or "0", 16)


def _place(number: int) -> str:
    return f"{number >> 3:#04x}.{number & 7:x}"


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, int) else str(value)


def _spell(properties: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in properties.items())


def _correct(device: Device, bus: str, addr: str, b: Build) -> None:
    """Let the live document say what is."""
    indexes = (
        int(c.node.get("index") or 0) for c in b.domain.lists["controller"] if c.node.get("type") == "pci"
    )
    index = next((i for i in indexes if pci_bus_name(b, i) == bus), None)
    node = device.node.child("address")
    if index is None or node is None:
        return
    slot, _, function = addr.partition(".")
    for name, text in (("bus", f"{index:#04x}"), ("slot", slot), ("function", f"0x{function}")):
        node.set(name, text)


def _complete_memory(monitor: Asked, domain: Domain) -> None:
    """Where QEMU has put memory modules that the document gives no base."""
    modules = {device.alias: device for device in domain.lists["memory"]}
    if not modules:
        return
    for entry in monitor.execute("query-memory-devices"):
        data = entry["data"]
        device = modules.get(str(data.get("id")))
        if device is not None and device.address_type == "dimm":
            device.node.ensure("address").set("base", f"{data['addr']:#x}")


# -- query-pci -------------------------------------------------------------------------------------------------------


def read_query_pci(reply: Any) -> Iterator[tuple[str, PciRecord]]:
    """Each card with the id of the bridge that it is behind (``""``: a root bus)."""
    for bus in reply:
        yield from _cards(bus["devices"], "")


def _cards(devices: Any, bridge: str) -> Iterator[tuple[str, PciRecord]]:
    for card in devices:
        ids = card["id"]
        name = str(card["qdev_id"])
        yield (
            bridge,
            PciRecord(
                card["bus"],
                card["slot"],
                card["function"],
                class_name=card["class_info"].get("desc", f"Class {card['class_info']['class']:04x}"),
                ids=f"{ids['vendor']:04x}:{ids['device']:04x}",
                id=name,
            ),
        )
        yield from _cards(card.get("pci_bridge", {}).get("devices", ()), name)


def _by_query_pci(monitor: Asked, b: Build, verdict: Verdict) -> Iterator[Misplaced]:
    """What differs by ``query-pci``: buses that no firmware has numbered yet are not in it."""
    if not b.board.has_pci:
        return
    bridges = {
        int(c.node.get("index") or 0): c for c in b.domain.lists["controller"] if c.node.get("type") == "pci"
    }
    planned = {
        device.alias: device for device in b.domain.every() if device.address_type == "pci" and device.alias
    }
    for behind, card in read_query_pci(monitor.execute("query-pci")):
        device = planned.get(card.id)
        address = device.address.pci if device is not None and device.address is not None else None
        if address is None:
            continue
        if device is not None and device.node.get("model") == _EXPANDER and card.bus:
            continue  # the bridge below it
        verdict.checked["query-pci"] += 1
        bridge = bridges.get(address.bus)
        is_root = bridge is None or address.bus == 0 or bridge.node.get("model") == _PCIE_EXPANDER
        expected = (
            "" if is_root or bridge is None else bridge.alias,
            address.slot,
            address.function,
        )
        if expected != (behind, card.slot, card.function):
            actual = f"{behind or 'root'} {card.slot:#04x}.{card.function:x}"
            yield Misplaced(
                card.id, "query-pci", f"{expected[0] or 'root'} {expected[1]:#04x}.{expected[2]:x}", actual
            )
