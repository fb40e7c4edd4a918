"""``Fingerprint``: all that a guest sees of its hardware, as plain facts that can be stored and compared.

It is made of a complete definition, and of the command line for what only that tells (CPU features, properties of
devices).  Its text is a list of parts with a fact a line, for eyes and for version control.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from qemushim.command.command import Command
from qemushim.command.option import Option
from qemushim.compare.abi import place
from qemushim.compare.spelling import cpu_properties, properties
from qemushim.compare.visible import (
    DEFAULTS,
    DEVICES,
    ELEMENTS,
    HOST_CPUS,
    HOST_KINDS,
    HOST_PROPERTIES,
    HOST_SIDE,
    MACHINE,
    PLACE_PROPERTIES,
)
from qemushim.devices.base import Device
from qemushim.document.node import COMMENT, Node
from qemushim.guest import Guest
from qemushim.machine.domain import Domain

#: what says which of several children of a tag is meant
_NAMES = ("name", "id", "index", "bus", "type", "dev", "port")
#: elements whose text is a size, which a definition always gives in KiB
_SIZES = frozenset(("memory", "currentMemory", "maxMemory"))
#: kind of device → where its own name stands
_IDENTITY = {
    "channel": "target/@name",
    "disk": "target/@dev",
    "filesystem": "target/@dir",
    "interface": "mac/@address",
    "parallel": "target/@port",
    "serial": "target/@port",
    "shmem": "@name",
}


@dataclass(slots=True)
class Part:
    """A device, or a side of the machine."""

    #: tag of a device, or the part's own name
    kind: str
    name: str
    #: what the guest sees
    facts: dict[str, str] = field(default_factory=dict)
    #: what it does not see
    hidden: dict[str, str] = field(default_factory=dict)
    #: line of the document, 0 where it was added
    line: int = 0

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


@dataclass(slots=True)
class Fingerprint:
    """The parts of a guest, the machine first, then devices in libvirt's order."""

    parts: list[Part] = field(default_factory=list)

    def part(self, kind: str, name: str = "") -> Part:
        """The part of that name, made where missing."""
        for part in self.parts:
            if part.kind == kind and part.name == name:
                return part
        self.parts.append(Part(kind, name))
        return self.parts[-1]

    def dump(self) -> str:
        """``[part]`` and ``fact = value``; only what the guest sees."""
        blocks = []
        for part in self.parts:
            if part.facts or (part.kind in DEVICES and part.kind not in HOST_KINDS):
                facts = [
                    f"{fact} = {_one_line(value)}".rstrip() for fact, value in sorted(part.facts.items())
                ]
                blocks.append("\n".join([f"[{_one_line(part.title)}]", *facts]))
        return "\n\n".join(blocks) + "\n"

    @classmethod
    def load(cls, text: str) -> Fingerprint:
        """What ``dump`` has written; lines that are none of that are passed over."""
        found = cls()
        for line in text.splitlines():
            if line.startswith("[") and line.endswith("]"):
                found.parts.append(Part(*_split_title(_unescape(line[1:-1]))))
            elif " =" in line and found.parts:
                fact, _, value = line.partition(" =")
                found.parts[-1].facts[fact] = _unescape(value[1:])
        return found


def _one_line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _unescape(text: str) -> str:
    pieces = (piece.replace("\\n", "\n").replace("\\r", "\r") for piece in text.split("\\\\"))
    return "\\".join(pieces)


def _split_title(title: str) -> tuple[str, str]:
    """Kind and name; kinds of the machine may be of several words."""
    known = {kind for kind, _ in ELEMENTS.values()}
    if title in known:
        return title, ""
    kind, _, name = title.partition(" ")
    return kind, name


# -- making one ------------------------------------------------------------------------------------------------------


def fingerprint(defined: Guest, command: Command | None = None, running: Domain | None = None) -> Fingerprint:
    """What a guest with this definition sees.

    ``command`` with ``running``, the domain that it was built of, tells more: CPU features and device properties.
    """
    found = Fingerprint()
    # as it would be stored, so that no spelling of a value counts
    stored = defined.domain if defined.classic else Guest.from_xml(defined.to_xml()).domain
    _machine(found, defined.domain)
    _elements(found, stored.node, defined.domain.node)
    devices = _devices(stored)
    names = _names(devices)
    for device, origin in zip(devices, _devices(defined.domain), strict=True):
        predicted = defined.predicted.get(origin)
        part = _device(device, names[device], str(predicted) if predicted is not None else "")
        part.line = origin.node.line
        found.parts.append(part)
    if command is not None:
        _cpu(found, command)
        if running is not None and not defined.classic:
            _properties(found, running, command)
    return found


def _devices(domain: Domain) -> list[Device]:
    return [device for kind in domain.lists.values() for device in kind]


def _machine(found: Fingerprint, domain: Domain) -> None:
    part = found.part("machine")
    node = domain.node.find("os/type")
    part.line = node.line if node is not None else 0
    part.facts["virtualization"] = domain.virt
    for path, fact in MACHINE.items():
        value = domain.node.value(path)
        if value:
            part.facts[fact] = value


def _elements(found: Fingerprint, root: Node, origin: Node) -> None:
    for element in origin.children:
        if element.tag in ELEMENTS:
            part = found.part(ELEMENTS[element.tag][0])
            part.line = part.line or element.line
    for element in root.children:
        kind, seen = ELEMENTS.get(element.tag, ("host", False))
        if element.tag in (COMMENT, "devices"):
            continue
        part = found.part(kind)
        for path, value in flatten(element, element.tag):
            if path in MACHINE:
                continue
            facts = part.facts if seen and not _below(_plain(path), HOST_SIDE) else part.hidden
            facts[_short(path, kind)] = f"{value} KiB" if path in _SIZES else value


def _device(device: Device, name: str, predicted: str) -> Part:
    part = Part(device.tag, name)
    visible = DEVICES[device.tag]
    for path, value in flatten(device.node, ""):
        if path.split("/")[0] in ("address", "alias"):
            continue
        if not _below(_plain(path), visible):
            part.hidden[path] = value
        elif DEFAULTS.get((device.tag, path)) != value:
            part.facts[path] = value
    address = place(device) or predicted
    if address and device.tag not in HOST_KINDS:
        part.facts["address"] = address
    return part


def _names(devices: list[Device]) -> dict[Device, str]:
    """A name for every device that another one of its kind does not have."""
    names: dict[Device, str] = {}
    taken: set[tuple[str, str]] = set()
    for device in devices:
        if device.tag == "controller":
            name = f"{device.node.get('type') or ''} {device.node.get('index') or 0}"
        else:
            name = device.node.value(_IDENTITY.get(device.tag, "@")) or ""
        number = 0
        own = name
        while (device.tag, own) in taken or (not own and device.tag not in _SINGLE):
            own = f"{name} #{number}".strip()
            number += 1
        taken.add((device.tag, own))
        names[device] = own
    return names


#: kinds of which a guest has at most one
_SINGLE = frozenset(("iommu", "memballoon", "nvram", "pstore", "vsock"))


def flatten(node: Node, prefix: str) -> Iterator[tuple[str, str]]:
    """(path, value) of all that an element says: ``driver/@name``, ``source``; a child alone says it is there."""
    for name, value in node.attrib.items():
        yield f"{prefix}/@{name}" if prefix else f"@{name}", value
    text = node.text.strip()
    children = [child for child in node.children if child.tag != COMMENT]
    if text or (prefix and not node.attrib and not children):
        yield prefix, text or "present"
    counted: dict[str, int] = {}
    for child in children:
        counted[child.tag] = counted.get(child.tag, 0) + 1
    seen: dict[str, int] = {}
    for child in children:
        label = child.tag
        if counted[child.tag] > 1:
            own = next((child.attrib[name] for name in _NAMES if name in child.attrib), "")
            number = seen[f"{label}/{own}"] = seen.get(f"{label}/{own}", -1) + 1
            label += f"[{own or number}]" if not own or not number else f"[{own} {number}]"
        yield from flatten(child, f"{prefix}/{label}" if prefix else label)


def _plain(path: str) -> str:
    """The path without the numbers of children."""
    while "[" in path:
        head, _, rest = path.partition("[")
        path = head + rest.partition("]")[2]
    return path


def _below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


def _short(path: str, kind: str) -> str:
    """Without the element that goes by the part's own name: ``cpu/@mode`` is fact ``mode`` of part ``cpu``."""
    head, slash, rest = path.partition("/")
    if slash and head in (kind, "os", "pm"):
        return rest.removeprefix("@")
    return path


# -- what only the command line tells --------------------------------------------------------------------------------


def _cpu(found: Fingerprint, command: Command) -> None:
    option = next((option for option in command.options if option.flag == "-cpu"), None)
    if option is None:
        return
    cpu = found.part("cpu")
    if cpu.facts.get("mode") in HOST_CPUS:
        return  # whatever the host of the recording had
    given = cpu_properties(option)
    given.pop("migratable", None)
    model = given.pop("model", "")
    features = [name if value == "on" else f"{name}={value}" for name, value in sorted(given.items())]
    cpu.facts["given to QEMU"] = " ".join([model, *features])


def _properties(found: Fingerprint, running: Domain, command: Command) -> None:
    """The properties of each ``-device``, at the part of the element that it was made of."""
    devices = _devices(running)
    names = _names(devices)
    owner: dict[int, Part] = {}
    by_title = {(part.kind, part.name): part for part in found.parts}
    for device in devices:
        part = by_title.get((device.tag, names[device]))
        for node in device.node.iter() if part is not None else ():
            owner[id(node)] = part  # type: ignore[assignment]
    for option in command.options:
        part = owner.get(id(option.source)) if option.flag == "-device" else None
        if part is not None:
            part.facts.update(_guest_properties(option))


def _guest_properties(option: Option) -> dict[str, str]:
    given = properties(option)
    facts = {"driver": given.get("driver", "")}
    for key, value in given.items():
        head = key.split(".")[0]
        if head not in HOST_PROPERTIES and head not in PLACE_PROPERTIES and not head.startswith("iothread"):
            facts[f"property {key}"] = value
    return facts


__all__ = ["Fingerprint", "Part", "fingerprint"]
