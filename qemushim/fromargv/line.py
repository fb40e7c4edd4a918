"""``Line``: a command taken apart, and the document that readers make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from qemushim.board import Board, board_of
from qemushim.devices import BY_TAG
from qemushim.document.item import check
from qemushim.document.node import Node
from qemushim.errors import ConfigError
from qemushim.fromargv.buses import Buses
from qemushim.fromargv.options import OPTIONS, PRINTERS, SYNONYMS, Kind
from qemushim.fromargv.secrets import drop_credentials, opened_file, plain_secret, secret_reference
from qemushim.fromargv.syntax import (
    NOWHERE,
    Bag,
    Place,
    UnreadableError,
    as_text,
    properties_of,
    wrong,
)
from qemushim.fromargv.words import Word, Words, place_of
from qemushim.host import nominal_uuid

#: programs that start another: qemu is a later word of theirs
_WRAPPERS = frozenset(
    "sudo doas env exec nice ionice taskset numactl chrt nohup time strace gdb catchsegv setsid systemd-run prlimit "
    "command runuser su pkexec unshare setarch stdbuf timeout flatpak-spawn ltrace valgrind perf".split()
)
#: architecture of QEMU's binary → libvirt's name of it
_ARCHES = {"i386": "i686", "arm": "armv7l"}


@dataclass(slots=True, eq=False)
class Argument:
    """One option of the command, or one that a legacy spelling stands for."""

    flag: str
    text: str | None
    place: Place
    bag: Bag
    #: the words as they stood
    tokens: list[str]
    #: the argument of the command that this one was made from
    origin: Argument | None = None
    #: some reader understood it
    read: bool = False

    @property
    def root(self) -> Argument:
        return self if self.origin is None else self.origin.root

    @property
    def id(self) -> str:
        return self.bag.was("node-name" if self.flag == "-blockdev" else "id") or ""


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
class Line:
    """The arguments, by flag and by id, and the document so far."""

    environment: dict[str, str]
    binary: str
    arguments: list[Argument]
    notes: list[Note] = field(default_factory=list)
    root: Node = field(default_factory=lambda: Node("domain"))
    #: an element → the arguments it was read from
    sources: dict[int, list[Argument]] = field(default_factory=dict)
    #: elements whose id in the command is known
    ids: list[tuple[Node, str]] = field(default_factory=list)
    #: names of buses → what sits there (``places``)
    board: Board = field(default_factory=lambda: board_of("", ""))
    #: the machine brings a USB controller of its own (``-usb``)
    machine_usb: bool = False
    #: audio back end of the PC speaker, ``None``: it is silent
    speaker: str | None = None
    loadparm: str = ""
    cpu_compat: str = ""
    #: number of a flash device → the node that it shows
    flash: dict[int, str] = field(default_factory=dict)
    secure_flash: bool = False
    #: the chipset's own watchdog acts
    has_itco: bool = False
    enclaves: dict[str, str] = field(default_factory=dict)
    #: what is said of the root PCI bus: ``hole64`` (KiB), ``hotplug``
    root_bus: dict[str, str] = field(default_factory=dict)
    #: floppy drive (``A``, ``B``) → boot order
    floppy_boot: dict[str, str] = field(default_factory=dict)
    #: the object that is all of the guest's memory
    main_memory: str = ""
    buses: Buses = field(default_factory=Buses)
    #: a controller's argument → its index
    indexes: dict[int, int] = field(default_factory=dict)
    #: id of a device → its zPCI ids
    zpci: dict[str, dict[str, str]] = field(default_factory=dict)
    #: PCI devices that QEMU itself finds a slot for: element, index of the bus, multifunction
    unplaced: list[tuple[Node, int, bool | None]] = field(default_factory=list)
    #: those that come with the board, before any ``-device``: rank, element
    waiting: list[tuple[int, Node]] = field(default_factory=list)
    usb_devices: int = 0
    #: network cards that QEMU gives a MAC address
    cards: int = 0
    #: number of a tap's descriptor → type and source of the interface, as the host knows them
    networks: Mapping[int, tuple[str, Mapping[str, str]]] = field(default_factory=dict)
    #: id of an I/O thread → its number
    iothreads: dict[str, str] = field(default_factory=dict)
    #: properties that no element says: element, and those that are left
    overrides: list[tuple[Node, Bag]] = field(default_factory=list)
    #: numbers of the process's descriptors → what they are open on (a path, ``tap:NAME``)
    descriptors: Mapping[int, str] = field(default_factory=dict)
    #: names of disks so far, and the last number of each bus
    disk_names: set[str] = field(default_factory=set)
    last_disk: dict[str, int] = field(default_factory=dict)
    #: units that are taken: bus, number
    ports: set[tuple[str, int]] = field(default_factory=set)
    #: drives of ``if=scsi``, which need a controller
    scsi_drives: int = 0
    #: id of an audio back end → its number, and the number of the first
    audio: dict[str, str] = field(default_factory=dict)
    first_audio: str = ""
    legacy_sound: list[str] = field(default_factory=list)
    first_video: Node | None = None
    watchdog_action: str = "reset"
    has_serial: bool = False
    #: kinds of devices that -boot names
    boot_order: list[str] = field(default_factory=list)
    #: socket of the TPM emulator that libvirt starts, where it has no name of libvirt's
    tpm_socket: str = ""
    #: socket of a virtiofsd → the directory that it serves
    shared_directories: Mapping[str, str] = field(default_factory=dict)
    ensure_shared_memory: bool = False
    #: SCSI device of the host → adapter, bus, target, unit
    scsi_devices: Mapping[str, tuple[int, int, int, int]] = field(default_factory=dict)
    #: guests' memory is part of core dumps where nothing is said
    dumps_core: bool = False
    #: libvirt's own folder
    lib: str = "/var/lib/libvirt/qemu"
    #: seconds since 1970, on the host
    now: int = 0
    #: the emulator can be connected to passt, which forwards ports
    has_passt: bool = True
    #: names of file descriptor groups → their numbers
    fd_groups: Mapping[str, tuple[tuple[int, ...], bool]] = field(default_factory=dict)
    #: an argument that could not be read → why
    reasons: dict[int, str] = field(default_factory=dict)
    managed_reservations: bool = False
    #: ``tls='no'`` has to be said, because the host's default is TLS
    says_tls: bool = False
    #: words for ``<qemu:commandline>``
    kept: list[str] = field(default_factory=list)
    _used: list[Argument] | None = None

    # -- arguments ---------------------------------------------------------------------------------

    def all(self, *flags: str) -> list[Argument]:
        """The arguments of some flags that nobody has read yet, in order."""
        return [a for a in self.arguments if a.flag in flags and not a.read]

    def last(self, flag: str) -> Argument | None:
        """The last argument of a flag (it is the one that counts for QEMU); all of them count as read."""
        found = self.all(flag)
        for argument in found:
            self.use(argument)
        return found[-1] if found else None

    def given(self, flag: str) -> bool:
        """Whether an option is on the command line; it counts as read."""
        return self.last(flag) is not None

    def find(self, flags: Iterable[str], name: str | None) -> Argument:
        """The argument of an id.  Raises ``UnreadableError`` where there is none, or it was used for another device."""
        for argument in self.arguments:
            if argument.flag in flags and argument.id == name and name:
                if argument.read:
                    raise UnreadableError(f"{argument.flag} {name} is used by more than one device")
                return argument
        raise UnreadableError(f"there is no {' or '.join(flags)} {name}")

    def object(self, name: str | None) -> Argument:
        return self.find(("-object",), name)

    def use(self, argument: Argument) -> Bag:
        """An argument is being read; within ``attempt`` it is given back where the reader fails."""
        argument.read = True
        if self._used is not None:
            self._used.append(argument)
        return argument.bag

    def derive(self, origin: Argument, flag: str, text: str) -> Argument:
        """An argument in today's spelling, for one in another."""
        implied = OPTIONS[flag[1:]][1]
        made = Argument(
            flag, text, origin.place, properties_of(text, flag, origin.place, implied), origin.tokens, origin
        )
        origin.read = True
        self.arguments.append(made)
        return made

    def keep(self, tokens: list[str], what: str, place: Place) -> None:
        """Words that no element says go to ``<qemu:commandline>``, and the user is told."""
        self.kept += tokens
        self.notes.append(Note("kept", f"{what}: kept in <qemu:commandline>", place))

    def say_left(self, bag: Bag) -> None:
        """What was not understood of an argument that is otherwise in the document."""
        for key, value in bag.pairs:
            message = f"{bag.what}: {key}={as_text(value)}: no element says this"
            self.notes.append(Note("lost", message, bag.place))

    # -- what is only referred to --------------------------------------------------------------------

    def secret(self, name: str | None, kind: str) -> dict[str, str]:
        """See ``secrets.secret_reference``."""
        return secret_reference(self, name, kind)

    def secret_object(self, name: str) -> Argument:
        """A secret, which several devices may share.  Raises ``UnreadableError`` where there is none of that id."""
        for argument in self.arguments:
            if argument.flag == "-object" and argument.id == name:
                return argument
        raise UnreadableError(f"there is no -object secret {name}")

    def new_secret(self, what: str, kind: str, *, known: bool) -> dict[str, str]:
        """A reference to a secret that has no object: it is in a URL, or not there at all."""
        uuid = nominal_uuid(f"secret {what}")
        where = (
            "its password is in the clear in the URL" if known else "its password is not on the command line"
        )
        self.note("secret", f"{what}: {where}; libvirt is to keep it as the {kind} secret {uuid}")
        return {"uuid": uuid}

    def plain_secret(self, name: str) -> str | None:
        return plain_secret(self, name)

    def credentials(self, name: str) -> None:
        drop_credentials(self, name)

    def opened(self, path: str, *, quiet: bool = False) -> str:
        return opened_file(self, path, quiet=quiet)

    # -- the document ------------------------------------------------------------------------------

    def note(self, kind: str, message: str, argument: Argument | None = None) -> None:
        found = Note(kind, message, argument.root.place if argument is not None else Place())
        if found not in self.notes:
            self.notes.append(found)

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
        if bag.pairs:
            self.overrides.append((node, bag))
        return self.add(node, *arguments)

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

    def generated_mac(self) -> str:
        """QEMU's own MAC of its first, second … card: 52:54:00:12:34:56 and up."""
        number = self.cards
        self.cards += 1
        return f"52:54:00:12:34:{(0x56 + number) & 0xFF:02x}"

    def wait_for_slot(self, node: Node, rank: int) -> None:
        """A PCI device that QEMU itself finds a slot for: 0 the graphics card, 1 the board's network cards."""
        self.waiting.append((rank, node))

    def next_port(self, bus: str) -> int:
        """The first unit of a bus that no drive has."""
        number = 0
        while (bus, number) in self.ports:
            number += 1
        self.ports.add((bus, number))
        return number

    def next_target(self, controller: int) -> int:
        """The next SCSI target of a controller."""
        return self.next_port(f"scsi{controller}")

    def count_device_memory(self, kib: int) -> None:
        """Memory that is a device is part of all memory."""
        memory = self.root.ensure("memory")
        memory.text = str(int(memory.text or "0") + kib)

    @property
    def by_libvirt(self) -> bool:
        """libvirt (or this project) wrote the command."""
        return any(a.id in ("masterKey0", "charmonitor", "monitor") for a in self.arguments)

    @property
    def has_defaults(self) -> bool:
        """QEMU adds the devices that a machine usually has."""
        return not any(a.flag == "-nodefaults" for a in self.arguments)

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
        self.line._used = []
        self.notes = len(self.line.notes)
        return self.line.use(self.argument) if self.argument is not None else Bag("", NOWHERE, [])

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> bool:
        used, self.line._used = self.line._used or [], None
        # numbers and sets that are none are found out by whoever parses them
        if not isinstance(problem, UnreadableError | ValueError):
            return False
        del self.line.notes[self.notes :]
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


# -- from words -------------------------------------------------------------------------------------


def line_of(words: Words, file: str = "") -> Line:
    """Take a command apart.  Raises ``ConfigError`` where there is no QEMU in it, or an option lacks its value."""
    found = words.words
    environment: dict[str, str] = {}
    notes = list(words.notes)
    at = _find_emulator(found, environment, notes, file)
    line = Line(environment, found[at].text, [])
    for message, number in notes:
        line.notes.append(Note("read", message, Place(0, number)))
    line.arguments = list(_arguments(found, at, line))
    return line


def _find_emulator(
    found: list[Word], environment: dict[str, str], notes: list[tuple[str, int]], file: str
) -> int:
    """The number of the word that is QEMU; variables before it are collected."""
    at = 0
    while at < len(found) and not is_emulator(found[at].text):
        name, equals, value = found[at].text.partition("=")
        if equals and name.isidentifier():
            environment[name] = value
        elif found[at].text.rpartition("/")[2] in _WRAPPERS:
            notes.append((f"{found[at].text}: what starts QEMU is not part of the domain", found[at].line))
        elif not any(is_emulator(word.text) for word in found[at:]):
            break
        at += 1
    unknown = at < len(found) and not is_emulator(found[at].text) and not found[at].text.startswith("-")
    if unknown and not (at + 1 < len(found) and found[at + 1].text.startswith("-")):
        # of another name, but with options behind it, it may be one: $QEMU, ./my-build
        at = len(found)
    if at == len(found):
        raise ConfigError(
            "there is no QEMU in the command", file=file, hint="qemu-system-ARCH and its options are needed"
        )
    if not is_emulator(found[at].text) and found[at].text.startswith("-"):
        raise ConfigError(
            "the command begins with an option",
            file=file,
            line=found[at].line,
            hint="put the emulator before it: qemu-system-x86_64 …",
        )
    return at


def is_emulator(text: str) -> bool:
    """Whether a word looks like the name of a QEMU binary."""
    name = text.rpartition("/")[2]
    return name.startswith("qemu-system-") or name in (
        *("qemu", "kvm", "qemu-kvm", "qemu.wrapper", "qemu-kvm.real", "kvm-spice", "qemu-kvm-spice"),
    )


def arch_of(binary: str) -> str:
    """libvirt's name of the architecture that an emulator of such a name has."""
    name = binary.rpartition("/")[2]
    _, dash, arch = name.partition("qemu-system-")
    arch = arch.split("-")[0].split(".")[0]
    return _ARCHES.get(arch, arch) if dash and arch else "x86_64"


def _arguments(words: list[Word], at: int, line: Line) -> Iterator[Argument]:
    number = at + 1
    while number < len(words):
        place = place_of(words, number, at)
        text = words[number].text
        if not text.startswith("-") or text == "-":
            # a bare word is a disk image, but not where libvirt passes on what it does not know
            yield _make("hda" if not _is_libvirt(words) else "word", text, [text], place)
            number += 1
            continue
        name = text.removeprefix("--") if text.startswith("--") else text[1:]
        name = SYNONYMS.get(name, name)
        if name in PRINTERS:
            raise wrong(f"{text} only prints something: there is no guest to read", place)
        kind = OPTIONS[name][0] if name in OPTIONS else None
        takes = kind is not Kind.NONE
        if kind is None:
            takes = number + 1 < len(words) and not words[number + 1].text.startswith("-")
        if takes and number + 1 >= len(words):
            raise wrong(f"{text} needs a value", place)
        value = words[number + 1].text if takes else None
        tokens = [word.text for word in words[number : number + 1 + takes]]
        yield _make(name, value, tokens, place)
        number += 1 + takes


def _is_libvirt(words: list[Word]) -> bool:
    return any(word.text.startswith("socket,id=charmonitor,") for word in words)


def _make(name: str, value: str | None, tokens: list[str], place: Place) -> Argument:
    kind, implied = OPTIONS.get(name, (Kind.TEXT, ""))
    if kind is Kind.PROPERTIES:
        bag = properties_of(value, f"-{name}", place, implied)
    else:
        bag = Bag(f"-{name}", place, [])
    return Argument(f"-{name}", value, place, bag, tokens)
