"""``Line``: a command, and the document that readers make of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from qemushim.board import Board, board_of
from qemushim.devices import BY_TAG
from qemushim.document.item import check
from qemushim.document.node import Node
from qemushim.errors import ConfigError
from qemushim.fromargv.arguments import Argument, Arguments
from qemushim.fromargv.buses import Buses
from qemushim.fromargv.syntax import NOWHERE, Bag, Place, UnreadableError, as_text
from qemushim.host import Host


@dataclass(frozen=True)
class Known:
    """What the host knows of a running QEMU beyond its command line; empty for one that is only text."""

    #: number of the descriptor of a UNIX socket → its path
    sockets: Mapping[int, str] = field(default_factory=dict)
    #: number of a tap's descriptor → type and attributes of ``<source>`` of the interface
    networks: Mapping[int, tuple[str, Mapping[str, str]]] = field(default_factory=dict)
    #: socket of a virtiofsd → the directory that it serves
    shared_directories: Mapping[str, str] = field(default_factory=dict)
    #: ``/dev/sgN`` → adapter, bus, target, unit
    scsi_devices: Mapping[str, tuple[int, int, int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Dialect:
    """What depends on the QEMU that the command is for."""

    #: it can be connected to passt, which forwards ports
    passt: bool = True
    #: it is known by its help text: what is left out means what it meant in its days
    old: bool = False
    #: it takes KVM unless it is told not to
    kvm: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """Something that the user should know of the result.

    ``kind``: ``kept`` (in ``<qemu:commandline>`` or ``<qemu:override>``), ``lost`` (nowhere), ``changed`` (otherwise
    than it was), ``added`` (libvirt brings it), ``secret`` (to be given to libvirt), ``read`` (how it was understood).
    """

    kind: str
    message: str
    place: Place = NOWHERE


@dataclass
class Chipset:
    """What ``-machine`` and ``-global`` say of devices that are read later."""

    #: the machine brings a USB controller of its own (``-usb``)
    usb: bool = False
    #: audio back end of the PC speaker, ``None``: it is silent
    speaker: str | None = None
    loadparm: str = ""
    cpu_compat: str = ""
    #: number of a flash device → the node that it shows
    flash: dict[int, str] = field(default_factory=dict)
    secure_flash: bool = False
    #: the chipset's own watchdog acts
    has_itco: bool = False
    watchdog_action: str = "reset"
    #: ``sgx-epc.N.…`` → its value
    enclaves: dict[str, str] = field(default_factory=dict)
    #: what is said of the root PCI bus: ``hole64`` (KiB), ``hotplug``
    root_bus: dict[str, str] = field(default_factory=dict)
    #: floppy drive (``A``, ``B``) → boot order
    floppy_boot: dict[str, str] = field(default_factory=dict)
    #: the object that is all of the guest's memory
    main_memory: str = ""


@dataclass
class Sound:
    """Back ends of sound, and cards of ``-soundhw``."""

    #: id of a back end → its number
    numbers: dict[str, str] = field(default_factory=dict)
    #: the number of the first
    first: str = ""
    cards: list[str] = field(default_factory=list)


@dataclass
class Line(Arguments):
    """The arguments of a command, and the document so far."""

    host: Host = field(default_factory=Host)
    known_host: Known = field(default_factory=Known)
    dialect: Dialect = Dialect()
    root: Node = field(default_factory=lambda: Node("domain"))
    #: notes in order, each once
    notes: dict[Note, None] = field(default_factory=dict)
    #: an element → the arguments it was read from
    sources: dict[int, list[Argument]] = field(default_factory=dict)
    #: elements whose id in the command is known
    ids: list[tuple[Node, str]] = field(default_factory=list)
    #: properties that no element says: element, and those that are left
    overrides: list[tuple[Node, Bag]] = field(default_factory=list)
    #: words for ``<qemu:commandline>``
    kept: list[str] = field(default_factory=list)
    #: an argument that could not be read → why
    reasons: dict[int, str] = field(default_factory=dict)

    board: Board = field(default_factory=lambda: board_of("", ""))
    chipset: Chipset = field(default_factory=Chipset)
    buses: Buses = field(default_factory=Buses)
    sound: Sound = field(default_factory=Sound)
    #: id of an I/O thread → its number
    iothreads: dict[str, str] = field(default_factory=dict)
    #: kinds of devices that -boot names
    boot_order: list[str] = field(default_factory=list)
    managed_reservations: bool = False
    needs_shared_memory: bool = False

    @property
    def says_tls(self) -> bool:
        """``tls='no'`` has to be said, because the host's default is TLS."""
        return self.host.config.nbd_tls or self.host.config.chardev_tls

    def keep(self, tokens: list[str], what: str, place: Place) -> None:
        """Words that no element says go to ``<qemu:commandline>``, and the user is told."""
        self.kept += tokens
        self.notes[Note("kept", f"{what}: kept in <qemu:commandline>", place)] = None

    def say_left(self, bag: Bag) -> None:
        """What was not understood of an argument that is otherwise in the document."""
        for key, value in bag.pairs:
            message = f"{bag.what}: {key}={as_text(value)}: no element says this"
            self.notes[Note("lost", message, bag.place)] = None

    # -- the document ------------------------------------------------------------------------------

    def note(self, kind: str, message: str, argument: Argument | None = None) -> None:
        self.notes[Note(kind, message, argument.root.place if argument is not None else NOWHERE)] = None

    @property
    def devices(self) -> Node:
        return self.root.ensure("devices")

    def add(self, node: Node, *arguments: Argument) -> Node:
        """A device is complete: into the document with it.  Raises ``UnreadableError`` where a value is none of its."""
        try:
            check(node, BY_TAG[node.tag].schema_for(node))
        except ConfigError as problem:
            raise UnreadableError(problem.message) from None
        self.devices.append(node)
        self.sources[id(node)] = [a.root for a in arguments]
        name = next((a.id for a in arguments if a.flag == "-device" and a.id), "")
        if name:
            self.ids.append((node, name))
        return node

    def finish(self, bag: Bag, node: Node, *arguments: Argument) -> Node:
        """The last of a device: what any device says, what no element says, and into the document with it."""
        general(bag, node)
        bag.drop("id")
        self.add(node, *arguments)
        if bag.pairs:
            self.overrides.append((node, bag))
        return node

    def iothread(self, name: str) -> str:
        """The number of an I/O thread.  Raises ``UnreadableError`` where there is none of that id."""
        if name not in self.iothreads:
            raise UnreadableError(f"there is no iothread {name}")
        return self.iothreads[name]

    def bridge(self, node: Node, name: str, bag: Bag | None = None) -> None:
        """An interface on a bridge of the host."""
        node.set("type", "bridge")
        node.discard("target")
        node.add("source", {"bridge": name})

    def count_device_memory(self, kib: int) -> None:
        """Memory that is a device is part of all memory."""
        memory = self.root.ensure("memory")
        memory.text = str(int(memory.text or "0") + kib)

    def read_each(self, flag: str, reader: Callable[[Line, Argument, Bag], None]) -> None:
        """Every argument of a flag that is not read yet; why one could not be is kept."""
        for argument in self.all(flag):
            self.read_one(argument, reader)

    def read_one(self, argument: Argument, reader: Callable[[Line, Argument, Bag], None]) -> None:
        """One argument; where no document can say it, it is given back, with the reason."""
        attempt = Attempt(self, argument)
        with attempt as bag:
            reader(self, argument, bag)
        if attempt.reason:
            self.reasons[id(argument)] = attempt.reason

    def try_all(self, reader: Callable[[], None]) -> str:
        """Several arguments that only make sense together; the reason where no document can say them, else ``""``."""
        attempt = Attempt(self, None)
        with attempt:
            reader()
        return attempt.reason


class Attempt:
    """Reading one device: what it used is given back where it turns out that no document can say it."""

    def __init__(self, line: Line, argument: Argument | None) -> None:
        self.line, self.argument = line, argument
        self.reason = ""

    def __enter__(self) -> Bag:
        self.line.used = []
        self.notes = dict(self.line.notes)
        return self.line.use(self.argument) if self.argument is not None else Bag("", NOWHERE, [])

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> bool:
        used, self.line.used = self.line.used or [], None
        # numbers and sets that are none are found out by whoever parses them
        if not isinstance(problem, UnreadableError | ValueError):
            return False
        self.line.notes = self.notes
        for argument in used:
            argument.read = False
            argument.bag.reset()
        malformed = isinstance(problem, ValueError)
        self.reason = "one of its values is malformed" if malformed else str(problem)
        return True


def put(node: Node, path: str, value: object) -> None:
    """Set ``a/b/@name`` or the text of ``a/b``; nothing for ``None``; booleans become ``on`` and ``off``."""
    if value is None:
        return
    text = ("on" if value else "off") if isinstance(value, bool) else str(value)
    head, at, name = path.rpartition("@")
    target = node.ensure(head.rstrip("/") if at else path)
    if at:
        target.set(name, text)
    else:
        target.text = text


def general(bag: Bag, node: Node) -> None:
    """Boot order, option ROM, ACPI index."""
    order = bag.number("bootindex")
    if order is not None and order >= 0:
        # libvirt counts from 1
        put(node, "boot/@order", order)
    loadparm = bag.take("loadparm")
    if loadparm is not None:
        put(node, "boot/@loadparm", loadparm)
    rom = bag.take("romfile")
    if rom == "":
        put(node, "rom/@enabled", "no")
    else:
        put(node, "rom/@file", rom)
    bar = bag.number("rombar") if bag.peek("rombar") not in ("on", "off") else int(bool(bag.switch("rombar")))
    put(node, "rom/@bar", None if bar is None else bool(bar))
    put(node, "acpi/@index", bag.take("acpi-index"))


def yes_no(state: bool | None) -> str | None:
    return None if state is None else "yes" if state else "no"
