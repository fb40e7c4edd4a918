"""The live document: the definition, and what a guest has only while it runs – ids, block nodes, ports, terminals."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from qemushim.context import Build
from qemushim.devices.block_image import DiskNodes
from qemushim.document.node import Node
from qemushim.driver.verify import Asked
from qemushim.hotplug.live import settle, write_aliases
from qemushim.machine.domain import Domain

#: the number of a block node, in its name
_NODE = re.compile(r"libvirt-(\d+)\b")
#: devices that may be a terminal of the host
_PORTS = ("serial", "parallel", "channel", "console")
#: ``info chardev``: name of the device, terminal
_CHARDEV = re.compile(r"^(\w+): filename=pty:(\S+)", re.MULTILINE)


def complete_live(b: Build, taps: Mapping[str, str]) -> int:
    """Write into the domain what was decided while its command line was made; the highest number of a block node.

    ``taps``: device → the tap that was opened for it.
    """
    domain = b.domain
    domain.id = str(b.host.domain_id)
    for device in domain.every():
        settle(device, b)
    write_aliases(domain.every())
    _number_images(b)
    for interface in domain.lists["interface"]:
        if taps.get(interface.alias):
            interface.node.ensure("target").set("dev", taps[interface.alias])
    names = (
        str(o.properties["node-name"]) for o in b.command.options if o.properties and o.flag == "-blockdev"
    )
    return max((int(found[1]) for found in map(_NODE.match, names) if found), default=0)


def _number_images(b: Build) -> None:
    """``index=`` of every source: the number in the names of its nodes."""
    nodes: Mapping[int, DiskNodes] = b.notes["disk nodes"]
    for disk in b.domain.lists["disk"]:
        found = nodes.get(id(disk.node))
        for image in found.image.chain() if found is not None and found.image is not None else ():
            number = _NODE.match(image.name)
            if number is not None:
                image.source.set("index", number[1])


def write_terminals(monitor: Asked, domain: Domain) -> None:
    """Which terminal of the host each ``pty`` got.  Raises ``MonitorError``."""
    found: dict[str, str] = {}
    for chardev in monitor.execute("query-chardev"):
        kind, _, path = str(chardev["filename"]).partition(":")
        if kind == "pty":
            found[str(chardev["label"]).removeprefix("char")] = path
    for tag in _PORTS:
        for device in domain.lists[tag]:
            if device.alias in found:
                _write_terminal(device.node, found[device.alias])


def write_classic_terminals(said: str, root: Node) -> None:
    """The same from what ``info chardev`` says."""
    found: Mapping[str, str] = dict(_CHARDEV.findall(said))
    for node, name in _classic_ports(root):
        if name in found:
            _write_terminal(node, found[name])


def _classic_ports(root: Node) -> Iterator[tuple[Node, str]]:
    devices = root.ensure("devices")
    for tag in ("serial", "parallel"):
        for number, node in enumerate(devices.all(tag)):
            yield node, f"{tag}{number}"


def _write_terminal(node: Node, path: str) -> None:
    node.ensure("source").set("path", path)
    if node.tag == "console":
        node.set("tty", path)


def terminals(domain_node: Node) -> list[tuple[str, str]]:
    """Name and path of every terminal of a live document."""
    devices = domain_node.ensure("devices")
    found: list[tuple[str, str]] = []
    for tag in ("serial", "parallel", "console", "channel"):
        for number, node in enumerate(devices.all(tag)):
            path = node.value("source/@path")
            if node.get("type") == "pty" and path and path not in dict(found).values():
                found.append((node.value("alias/@name") or f"{tag}{number}", path))
    return found
