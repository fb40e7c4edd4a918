"""Domain documents nobody wrote: made from the declared fields, or from written ones by mutation.

Everything is drawn from a ``random.Random``, so a number says which document it is, on every machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

from qemushim.devices import BY_TAG
from qemushim.document.fields import Choice, Field, Hex, Integer, NumberSet, Switch, Unsigned
from qemushim.document.item import Child, Schema
from qemushim.document.node import COMMENT, Node
from qemushim.document.parse import parse
from qemushim.document.sizes import Size, SizeAttribute
from qemushim.document.writer import keep
from qemushim.emulator.bundled import find
from qemushim.emulator.model import Emulator
from qemushim.errors import ShimError
from qemushim.machine.domain import Domain

#: QEMU, architecture, machine type, domain type
BOARDS = (
    ("10.0", "x86_64", "pc", "kvm"),
    ("10.0", "x86_64", "q35", "qemu"),
    ("6.2", "x86_64", "pc", "qemu"),
    ("7.2", "x86_64", "q35", "kvm"),
    ("10.0", "x86_64", "microvm", "kvm"),
    ("10.0", "x86_64", "isapc", "qemu"),
    ("8.2", "aarch64", "virt", "qemu"),
    ("7.1", "ppc64", "pseries", "kvm"),
    ("10.0", "s390x", "s390-ccw-virtio", "kvm"),
    ("9.1", "riscv64", "virt", "qemu"),
    ("8.2", "loongarch64", "virt", "qemu"),
)
NUMBERS = (
    *(
        "0",
        "1",
        "2",
        "3",
        "4",
        "7",
        "8",
        "15",
        "16",
        "31",
        "32",
        "64",
        "100",
        "255",
        "256",
        "511",
        "512",
        "1024",
    ),
    *("4096", "65535", "65536", "1048576", "2147483647", "2147483648", "4294967295", "4294967296"),
    *("-1", "-2", "0x0", "0x1f", "0xff", "0x100", "010", "08", "9223372036854775807", "9223372036854775808"),
    *(
        "18446744073709551615",
        "18446744073709551616",
        "1" * 30,
        "",
        " 5 ",
        "5x",
        "1.5",
        "+3",
        "0x",
        "1_0",
        "٣",
    ),
)
WORDS = (
    *(
        "",
        "a",
        "0",
        "none",
        "default",
        "yes",
        "no",
        "on",
        "off",
        "auto",
        "virtio",
        "pci",
        "file",
        "vda",
        "sda",
    ),
    *(
        "hda",
        "fda",
        "pcie.0",
        "pci.0",
        "ua-x",
        "/srv/a.img",
        "/srv/a,b.img",
        'a"b',
        "a\nb",
        "$(reboot)",
        "-h",
    ),
    *("ä€𝄞", "a'b", "a\\b", "%s%n", "/dev/null", "../x", "10.0.0.1", "::1", "52:54:00:12:34:56", "q" * 300),
    *(
        "5b2e2c7e-9f2e-4c4b-8a3a-0c9f5d6e7f80",
        "=",
        ",",
        ",,",
        "a=b,c=d",
        " ",
        "\t",
        "{}",
        "0-3,^2",
        "id",
        "org.q",
    ),
)

#: where a value stands (``domain/os/type/@machine``) → what documents say there
Seen = dict[str, list[str]]


def load(directories: Iterable[Path], limit: int = 64 * 1024) -> list[Node]:
    """Every domain document below the directories, in the order of their names."""
    found = []
    for directory in directories:
        for path in sorted(directory.rglob("*.xml")):
            if path.stat().st_size > limit:
                continue
            try:
                node = parse(path.read_bytes(), path.name)
            except ShimError:
                continue
            if node.tag == "domain":
                found.append(node)
    return found


def survey(inputs: Sequence[Node]) -> Seen:
    """What the documents say at every place."""
    seen: dict[str, dict[str, None]] = {}

    def walk(node: Node, path: str) -> None:
        for name, value in node.attrib.items():
            seen.setdefault(f"{path}/@{name}", {})[value] = None
        if node.text.strip():
            seen.setdefault(path, {})[node.text.strip()] = None
        for child in node.children:
            if child.tag != COMMENT:
                walk(child, f"{path}/{child.tag}")

    for node in inputs:
        walk(node, node.tag)
    return {path: list(values) for path, values in seen.items()}


class Maker:
    """Draws documents."""

    def __init__(self, random: Random, inputs: Sequence[Node], seen: Seen, chance: float = 0.2) -> None:
        self.random = random
        self.inputs = inputs
        self.seen = seen
        #: of an optional attribute or element to be there
        self.chance = chance

    def maybe(self, chance: float) -> bool:
        return self.random.random() < chance

    # -- from the declared fields ------------------------------------------------------------------------------------

    def value(self, field: Field[Any], path: str) -> str:
        """A value for a field: mostly one that fits."""
        r = self.random
        known = self.seen.get(path)
        if self.maybe(0.02):
            return r.choice(WORDS)
        if self.maybe(0.02):
            return r.choice(NUMBERS)
        if isinstance(field, Choice) and field.values:
            return r.choice(field.values)
        if isinstance(field, Switch):
            return r.choice((field.true, field.false))
        if known and self.maybe(0.7):
            return r.choice(known)
        if isinstance(field, Size | SizeAttribute):
            return r.choice(("0", "4", "64", "1024", "65536", "262144", "1048576"))
        if isinstance(field, Hex | Unsigned):
            return r.choice(NUMBERS[:14])
        if isinstance(field, Integer):
            return r.choice(NUMBERS[:18])
        if isinstance(field, NumberSet):
            return r.choice(("0", "0-3", "1,3", "0-7,^2", "0-0"))
        return r.choice(known or WORDS)

    def fill(self, node: Node, schema: Callable[[], Schema], path: str, depth: int = 0) -> None:
        """Attributes and children of an element, as its schema declares them."""
        for _ in range(2):
            # what an element may have can depend on its type, which is an attribute
            for name, field in schema().attributes.items():
                likely = field.required or name in ("type", "model", "mode", "bus", "name")
                if name not in node.attrib and self.maybe(0.9 if likely else self.chance):
                    node.attrib[name] = self.value(field, f"{path}/@{name}")
        declared = schema()
        if declared.text is not None and self.maybe(0.8):
            node.text = self.value(declared.text, path)
        if depth > 6:
            return
        for tag, child in declared.children.items():
            if self.maybe(min(1.0, self.chance * (1.6 if f"{path}/{tag}" in self.seen else 0.7))):
                for _ in range(self.random.choice((1, 1, 2)) if child.many else 1):
                    self.child(node, tag, child, path, depth)

    def child(self, node: Node, tag: str, child: Child, path: str, depth: int) -> None:
        made = node.add(tag)
        self.fill(made, lambda: child.schema(made), f"{path}/{tag}", depth + 1)

    def device(self, tag: str) -> Node:
        node = Node(tag)
        kind = BY_TAG[tag]
        self.fill(node, lambda: kind.schema_for(node), f"domain/devices/{tag}", 1)
        return node

    def borrowed(self) -> Node:
        """A device that a document has."""
        for _ in range(8):
            devices = self.random.choice(self.inputs).child("devices")
            if devices is not None and devices.children:
                node = self.random.choice(devices.children)
                if node.tag in BY_TAG:
                    return node.copy()
        return self.device("disk")

    def domain(self) -> tuple[Node, Emulator]:
        """A whole document and the emulator that it is for."""
        r = self.random
        version, arch, machine, virt = r.choice(BOARDS)
        root = Node("domain", {"type": virt})
        root.add("name", text="g")
        root.add("memory", {"unit": "MiB"}, text="512")
        if self.maybe(0.4):
            root.add("vcpu", text=r.choice(("1", "2", "4", "8")))
        os = root.add("os")
        os.add("type", {"arch": arch, "machine": machine}, text="hvm")
        for tag, child in Domain.schema.children.items():
            if tag in ("name", "memory", "devices", "vcpu"):
                continue
            if tag == "os":
                if self.maybe(0.3):
                    self.fill(os, lambda: Domain.schema.children["os"].schema(os), "domain/os", 1)
            elif self.maybe(self.chance / 3):
                self.child(root, tag, child, "domain", 0)
        devices = root.add("devices")
        for _ in range(r.choice((0, 1, 1, 2, 3, 5, 8))):
            devices.append(self.borrowed() if self.maybe(0.3) else self.device(r.choice(tuple(BY_TAG))))
        return root, find(version, arch)

    # -- by mutation -------------------------------------------------------------------------------------------------

    def mutated(self) -> Node:
        """A written document, changed a little."""
        root = self.random.choice(self.inputs).copy()
        for _ in range(self.random.choice((1, 1, 1, 2, 2, 3, 6))):
            self.mutate(root)
        return root

    def places(self, root: Node) -> list[tuple[Node, Node, str]]:
        """Every element but the root: (parent, element, path)."""
        found = []
        stack = [(root, root.tag)]
        while stack:
            node, path = stack.pop()
            for child in node.children:
                if child.tag != COMMENT:
                    found.append((node, child, f"{path}/{child.tag}"))
                    stack.append((child, f"{path}/{child.tag}"))
        return found

    def mutate(self, root: Node) -> None:
        places = self.places(root)
        if not places:
            return
        parent, node, path = self.random.choice(places)
        self.random.choice(
            (self.drop, self.double, self.shuffle, self.swap, self.change, self.change, self.grow)
        )(root, parent, node, path)

    def drop(self, _root: Node, parent: Node, node: Node, _path: str) -> None:
        if node.attrib and self.maybe(0.5):
            node.drop(self.random.choice(list(node.attrib)))
        else:
            parent.remove(node)

    def double(self, _root: Node, parent: Node, node: Node, _path: str) -> None:
        parent.children.insert(self.random.randrange(len(parent.children) + 1), node.copy())

    def shuffle(self, _root: Node, parent: Node, _node: Node, _path: str) -> None:
        self.random.shuffle(parent.children)

    def swap(self, root: Node, _parent: Node, node: Node, _path: str) -> None:
        """Two attributes, or two texts, change places."""
        _, other, _ = self.random.choice(self.places(root))
        if node.attrib and other.attrib:
            mine = self.random.choice(list(node.attrib))
            theirs = self.random.choice(list(other.attrib))
            node.attrib[mine], other.attrib[theirs] = other.attrib[theirs], node.attrib[mine]
        else:
            node.text, other.text = other.text, node.text

    def change(self, _root: Node, _parent: Node, node: Node, path: str) -> None:
        """Another value: of this place in other documents, an odd number, an odd word."""
        where = f"/@{self.random.choice(list(node.attrib))}" if node.attrib and self.maybe(0.8) else ""
        pools = [self.seen.get(path + where) or WORDS, self.seen.get(path + where) or WORDS, NUMBERS, WORDS]
        value = self.random.choice(self.random.choice(pools))
        if where:
            node.attrib[where[2:]] = value
        elif not node.children:
            node.text = value

    def grow(self, root: Node, _parent: Node, _node: Node, _path: str) -> None:
        """A device, or a guest-wide element, of the declared fields or of another document."""
        if self.maybe(0.4):
            tag = self.random.choice([t for t in Domain.schema.children if t not in ("name", "devices")])
            found = root.child(tag)
            if found is None:
                self.child(root, tag, Domain.schema.children[tag], "domain", 0)
            else:
                self.fill(found, lambda: Domain.schema.children[tag].schema(found), f"domain/{tag}", 1)
            return
        tag = self.random.choice(tuple(BY_TAG))
        root.ensure("devices").append(self.borrowed() if self.maybe(0.5) else self.device(tag))


@cache
def emulators(arch: str) -> tuple[Emulator, ...]:
    """Those of an architecture that documents are drawn for; x86's where there is none."""
    found = {}
    for version in ("latest", "9.1", "8.2", "7.2", "6.2"):
        with suppress(ShimError):
            emulator = find(version, arch)
            found[emulator.version] = emulator
    return tuple(found.values()) or emulators("x86_64")


def emulator_of(root: Node, random: Random) -> Emulator:
    """One of the emulators of a document's architecture; mostly one that knows its machine type."""
    known = emulators(root.value("os/type/@arch") or "x86_64")
    machine, virt = root.value("os/type/@machine") or "", root.get("type") or ""
    fitting = [emulator for emulator in known if emulator.machine(machine, virt) is not None]
    return random.choice(fitting if fitting and random.random() < 0.9 else known)


def draw(number: int, inputs: Sequence[Node], seen: Seen) -> tuple[Node, Emulator]:
    """Document ``number`` of all that can be drawn from these inputs, and its emulator."""
    random = Random(number)
    maker = Maker(random, inputs, seen, chance=random.choice((0.08, 0.2, 0.35)))
    if random.random() < 0.4:
        return maker.domain()
    root = maker.mutated()
    return root, emulator_of(root, random)


def text(root: Node) -> str:
    """The document.  A namespace that is used is declared, characters that XML can not hold are left out."""
    if any(node.tag.startswith("qemu:") for node in root.iter()):
        root.attrib.setdefault("xmlns:qemu", "http://libvirt.org/schemas/domain/qemu/1.0")
    return keep(root) + "\n"


def minimal(root: Node, is_same: Callable[[Node], bool], patience: float = 8) -> Node:
    """The smallest document that ``is_same``: elements and attributes are taken away while it stays so.

    ``patience``: seconds after which the smallest so far is good enough.
    """
    best = root.copy()
    stop = time.monotonic() + patience
    place = 0
    while time.monotonic() < stop:
        smaller = list(_smaller(best))
        # on from where the last one was found: what could not go before can hardly go now
        order = [*range(place, len(smaller)), *range(min(place, len(smaller)))]
        for number in order:
            candidate = smaller[number]()
            if is_same(candidate):
                best, place = candidate, number
                break
            if time.monotonic() > stop:
                return best
        else:
            return best
    return best


def _smaller(root: Node) -> Iterator[Callable[[], Node]]:
    """How to make the document without one of its elements, outer ones first, then without one of its attributes."""
    nodes = list(root.iter())
    parents = {id(child): number for number, node in enumerate(nodes) for child in node.children}

    def without_element(number: int, parent: int) -> Node:
        twin = root.copy()
        every = list(twin.iter())
        every[parent].remove(every[number])
        return twin

    def without_attribute(number: int, name: str) -> Node:
        twin = root.copy()
        list(twin.iter())[number].drop(name)
        return twin

    for number, node in enumerate(nodes[1:], 1):
        yield partial(without_element, number, parents[id(node)])
    for number, node in enumerate(nodes):
        for name in node.attrib:
            yield partial(without_attribute, number, name)


__all__ = ["BOARDS", "Maker", "draw", "emulator_of", "load", "minimal", "parse", "survey", "text"]
