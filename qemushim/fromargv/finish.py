"""The document of a command that was read: what no element says, ids, and what libvirt makes of it.

The document is defined and made into a command again, by the same rules as any: so ids are known, and so is what
libvirt adds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qemushim.context import Build
from qemushim.document.node import QEMU_NAMESPACE, Node
from qemushim.emulator.model import Emulator
from qemushim.errors import ShimError
from qemushim.fromargv.arguments import Argument, arguments_of
from qemushim.fromargv.line import Dialect, Known, Line, Note
from qemushim.fromargv.places import split_driver
from qemushim.fromargv.read import read_line
from qemushim.fromargv.shell import Word
from qemushim.fromargv.syntax import Bag, Scalar, as_text
from qemushim.fromargv.words import Words
from qemushim.guest import Guest
from qemushim.host import Host


@dataclass(frozen=True)
class Reading:
    """A command line as a domain document, and what is to be known of it."""

    guest: Guest
    notes: tuple[Note, ...]
    #: arguments that no element says, as they stand in ``<qemu:commandline>``
    kept: tuple[str, ...] = ()
    #: why libvirt would refuse the document, ``None``: it takes it
    refusal: ShimError | None = None
    #: the command that libvirt would start, empty where it refuses
    argv: tuple[str, ...] = ()
    #: elements of ``<devices>`` in document order → the arguments they were read from
    sources: tuple[tuple[str, tuple[str, ...]], ...] = field(default=())

    def to_xml(self) -> str:
        """The document in libvirt's writing style."""
        return self.guest.to_xml()


def finish(line: Line, emulator: Emulator, host: Host, *, file: str = "") -> Reading:
    """Complete a document and look at what becomes of it."""
    kept = _keep_rest(line)
    _check_shared_memory(line)
    guest = _guest(line, file)
    build, refusal = _build(guest, emulator, host)
    if build is not None and _name_devices(line, build):
        guest = _guest(line, file)
        build, refusal = _build(guest, emulator, host)
    if build is not None:
        _say_added(line, build)
    sources = tuple(
        (node.tag, tuple(word for a in line.sources.get(id(node), ()) for word in a.tokens))
        for node in line.devices.children
    )
    argv = tuple(build.command.argv) if build is not None else ()
    return Reading(guest, tuple(line.notes), tuple(kept), refusal, argv, sources)


def _guest(line: Line, file: str) -> Guest:
    guest = Guest(_finished_root(line), file)
    guest.domain.check_fields()
    return guest


def _finished_root(line: Line) -> Node:
    """A copy of the document with its namespace, numbered as if it had been parsed."""
    root = line.root.copy()
    root.children = [child for child in root.children if child.tag != "features" or child.children]
    if any(child.tag.startswith("qemu:") for child in root.children):
        root.attrib["xmlns:qemu"] = QEMU_NAMESPACE
    for number, node in enumerate(root.iter()):
        node.origin = number
    return root


def _build(guest: Guest, emulator: Emulator, host: Host) -> tuple[Build | None, ShimError | None]:
    """What libvirt would start, or why it would not."""
    guest = guest.copy()
    for node in guest.domain.node.iter():
        # where the host has a USB device is found out by libvirt when it starts the guest
        if node.tag == "source" and node.child("vendor") is not None and node.child("address") is None:
            node.attrib.setdefault("startupPolicy", "optional")
    try:
        defined = guest.define(emulator, host)
        if emulator.classic:
            return None, None
        return defined.copy().build(emulator, host), None
    except ShimError as problem:
        return None, problem


# -- what no element says ---------------------------------------------------------------------------


def _keep_rest(line: Line) -> list[str]:
    """Arguments that nobody read go to ``<qemu:commandline>``, each once, in order."""
    rest: list[Argument] = []
    seen: set[int] = set()
    for argument in line.arguments:
        if argument.read and argument.origin is None:
            continue
        root = argument.root
        if not argument.read and root.tokens and id(root) not in seen:
            seen.add(id(root))
            rest.append(root)
    rest.sort(key=lambda argument: argument.place.index)
    words = list(line.kept)
    for argument in rest:
        words += argument.tokens
        reason = line.reasons.get(id(argument)) or _reason_of_derived(line, argument)
        what = " ".join(argument.tokens)
        if len(what) > 160:
            what = f"{what[:157]}…"
        because = f" ({reason})" if reason else ""
        line.notes[Note("kept", f"{what}: kept in <qemu:commandline>{because}", argument.place)] = None
    if words:
        commandline = line.root.ensure("qemu:commandline")
        at = sum(child.tag == "qemu:arg" for child in commandline.children)
        commandline.children[at:at] = [Node("qemu:arg", {"value": word}) for word in words]
    return words


def _reason_of_derived(line: Line, argument: Argument) -> str:
    derived = (a for a in line.arguments if a.origin is not None and a.root is argument)
    return next((line.reasons[id(a)] for a in derived if id(a) in line.reasons), "")


def _check_shared_memory(line: Line) -> None:
    """virtiofs and vhost-user need memory that another process can map."""
    if line.needs_shared_memory and line.root.find("memoryBacking/access") is None:
        line.note("read", "virtiofs needs shared memory: add <memoryBacking> with <access mode='shared'/>")


# -- ids and overrides --------------------------------------------------------------------------------


def _name_devices(line: Line, build: Build) -> bool:
    """``ua-`` aliases where an id can not be derived, and overrides by id; whether the document changed."""
    aliases: dict[int, str] = {}
    for device in build.domain.every():
        if device.node.origin >= 0:
            aliases[device.node.origin] = device.alias
    numbers = {id(node): number for number, node in enumerate(_originals(line))}
    changed = False
    for node, name in line.ids:
        number = numbers.get(id(node))
        if number is None or number not in aliases or aliases[number] == name:
            continue
        wanted = name if name.startswith("ua-") else f"ua-{name}"
        if not all(c.isascii() and (c.isalnum() or c in "_-.:") for c in wanted) or aliases[number] == "":
            continue
        if line.by_libvirt and wanted != name:
            line.note(
                "changed", f"{node.tag} {name}: libvirt would call it {aliases[number]}; it becomes {wanted}"
            )
        node.ensure("alias").set("name", wanted)
        aliases[number] = wanted
        changed = True
    for node, bag in line.overrides:
        number = numbers.get(id(node))
        alias = aliases.get(-1 if number is None else number, "")
        if alias:
            _override(line, node, alias, bag)
            changed = True
        else:
            for key, value in bag.pairs:
                line.note("lost", f"{node.tag}: {key}={as_text(value)}: no element says this")
    return changed


def _originals(line: Line) -> list[Node]:
    """The elements in the order in which ``_finished_root`` numbers their copies."""
    root = Node(line.root.tag)
    root.children = [child for child in line.root.children if child.tag != "features" or child.children]
    found = list(root.iter())
    found[0] = line.root
    return found


def _override(line: Line, node: Node, alias: str, bag: Bag) -> None:
    device = line.root.ensure("qemu:override").add("qemu:device", {"alias": alias})
    frontend = device.add("qemu:frontend")
    for key, value in bag.pairs:
        kind, text = _typed(key, value, bag)
        frontend.add("qemu:property", {"name": key, "type": kind, "value": text})
        line.note("kept", f"{node.tag} {alias}: {key}={as_text(value)}: kept in <qemu:override>")


#: properties that are on, off or auto, which JSON has as text
_ON_OFF_AUTO = frozenset(
    {"acpi", "disable-legacy", "display", "eim", "intremap", "page-per-vq", "write-cache"}
)


def _typed(key: str, value: Scalar, bag: Bag) -> tuple[str, str]:
    """The type of a property, by its value: QEMU checks it where options are JSON."""
    if isinstance(value, bool):
        return "bool", "true" if value else "false"
    text = as_text(value)
    if isinstance(value, int):
        return ("signed" if value < 0 else "unsigned"), text
    if key in _ON_OFF_AUTO or bag.is_json:
        return "string", text
    if text in ("on", "true"):
        return "bool", "true"
    if text in ("off", "false"):
        return "bool", "false"
    if text.isascii() and text.isdigit():
        return "unsigned", text
    if text.startswith("0x"):
        try:
            return "unsigned", str(int(text, 16))
        except ValueError:
            return "string", text
    return "string", text


# -- what libvirt adds --------------------------------------------------------------------------------


def _say_added(line: Line, build: Build) -> None:
    """Devices on libvirt's command line that the command did not have."""
    if line.by_libvirt:
        return
    argv = [build.command.binary or "qemu", *build.command.tokens[1:]]
    again = arguments_of(Words([Word(word) for word in _from_binary(build, argv)]))
    mine = Counter(
        _ALIASES.get(base, base) for base in (split_driver(d)[0] for d in _drivers(line.arguments))
    )
    mine.update(_drawn(line))
    theirs = Counter(split_driver(d)[0] for d in _drivers(again.arguments))
    added = theirs - mine
    for driver, count in sorted(added.items()):
        times = f" ({count} of them)" if count > 1 else ""
        line.note("added", f"libvirt adds {driver}{times}")
    line.note(
        "added",
        "libvirt adds its monitor, -nodefaults, -no-user-config, -no-shutdown, -boot strict=on and the sandbox",
    )


def _from_binary(build: Build, argv: list[str]) -> list[str]:
    return argv


#: devices of QEMU's that have two names
_ALIASES = {
    "e1000-82540em": "e1000",
    "ich9-ahci": "ahci",
    "lsi53c895a": "lsi",
}


def _drivers(arguments: list[Argument]) -> list[str]:
    return [a.bag.was("driver") or "" for a in arguments if a.flag == "-device"]


def _drawn(line: Line) -> Counter[str]:
    """Devices that the document has without a ``-device`` of the command: those of legacy options."""
    found: Counter[str] = Counter()
    for node in line.devices.children:
        if any(a.flag == "-device" for a in line.sources.get(id(node), ())):
            continue
        found.update(_LEGACY.get(node.tag, lambda node: [])(node))
    return found


def _disk(node: Node) -> list[str]:
    device, bus = node.get("device"), node.value("target/@bus")
    return {
        "virtio": ["virtio-blk"],
        "fdc": ["floppy"],
        "scsi": ["scsi-cd" if device == "cdrom" else "scsi-hd"],
    }.get(bus or "", ["ide-cd" if device == "cdrom" else "ide-hd"])


_LEGACY: Mapping[str, Any] = {
    "controller": lambda node: [
        {"piix3-uhci": "piix3-usb-uhci", "lsilogic": "lsi"}.get(
            node.get("model") or "", f"ich9-usb-{(node.get('model') or '').removeprefix('ich9-')}"
        )
    ],
    "disk": _disk,
    "filesystem": lambda node: ["virtio-9p"],
    "interface": lambda node: [
        "virtio-net" if node.value("model/@type") == "virtio" else node.value("model/@type") or ""
    ],
    "parallel": lambda node: ["isa-parallel"],
    "serial": lambda node: ["isa-serial", "sclpconsole", "spapr-vty"],
    "sound": lambda node: [
        {"ich6": "intel-hda", "ac97": "AC97", "es1370": "ES1370"}.get(
            node.get("model") or "", node.get("model") or ""
        ),
        *(["hda-duplex"] if node.get("model") == "ich6" else []),
    ],
    "video": lambda node: {
        "vga": ["VGA"],
        "cirrus": ["cirrus-vga"],
        "qxl": ["qxl-vga"],
        "virtio": ["virtio-vga"],
        "vmvga": ["vmware-svga"],
    }.get(node.value("model/@type") or "", []),
    "watchdog": lambda node: [node.get("model") or ""],
}


def read_command(
    words: Words,
    emulator: Emulator,
    host: Host,
    *,
    file: str = "",
    known: Known | None = None,
    name: str = "",
    directory: str = "",
) -> Reading:
    """A command as a domain document.

    ``file`` is what errors call the text; ``known``: what the machine knows of a QEMU that runs; ``name``: what the
    domain is called, where it is not what ``-name`` says; ``directory``: what relative paths are relative to.
    Raises ``ConfigError`` (with line and argument) where it is no command of QEMU's, or a value is malformed.
    """
    passt = emulator.classic or emulator.qapi("netdev_add/arg-type/+stream")
    dialect = Dialect(passt, old=emulator.classic, kvm=emulator.classic and "kvm" in emulator.flags)
    return finish(
        read_line(words, host, file=file, known=known, name=name, directory=directory, dialect=dialect),
        emulator,
        host,
        file=file,
    )
