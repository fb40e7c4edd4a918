"""The arguments of a command: taken apart, and found by flag and by id."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from qemushim.errors import ConfigError
from qemushim.fromargv.options import OPTIONS, PRINTERS, SYNONYMS, Kind
from qemushim.fromargv.shell import Word
from qemushim.fromargv.syntax import Bag, Place, UnreadableError, properties_of, wrong
from qemushim.fromargv.words import Words, place_of

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


@dataclass
class Arguments:
    """A command: the variables before it, the emulator, its arguments."""

    environment: dict[str, str]
    binary: str
    arguments: list[Argument]
    #: what was noticed while it was taken apart: message, line
    remarks: list[tuple[str, int]] = field(default_factory=list)
    _by_flag: dict[str, list[Argument]] = field(default_factory=dict)
    _by_id: dict[tuple[str, str], Argument] = field(default_factory=dict)
    #: what an attempt has used so far (``line.Attempt``)
    used: list[Argument] | None = None

    def __post_init__(self) -> None:
        for argument in self.arguments:
            self._index(argument)

    def _index(self, argument: Argument) -> None:
        self._by_flag.setdefault(argument.flag, []).append(argument)
        if argument.id:
            # of several with one id QEMU takes none: the first counts
            self._by_id.setdefault((argument.flag, argument.id), argument)

    def every(self, *flags: str) -> list[Argument]:
        """The arguments of some flags, read or not, in order."""
        if len(flags) == 1:
            return self._by_flag.get(flags[0], [])
        found = [argument for flag in flags for argument in self._by_flag.get(flag, ())]
        return sorted(found, key=lambda argument: argument.place.index)

    def all(self, *flags: str) -> list[Argument]:
        """Those that nobody has read yet."""
        return [argument for argument in self.every(*flags) if not argument.read]

    def last(self, flag: str) -> Argument | None:
        """The last argument of a flag (it is the one that counts for QEMU); all of them count as read."""
        found = self.all(flag)
        for argument in found:
            self.use(argument)
        return found[-1] if found else None

    def given(self, flag: str) -> bool:
        """Whether an option is on the command line; it counts as read."""
        return self.last(flag) is not None

    def known(self, flag: str, name: str) -> Argument | None:
        """The argument of a flag and an id."""
        return self._by_id.get((flag, name))

    def find(self, flags: Iterable[str], name: str | None) -> Argument:
        """The argument of an id.  Raises ``UnreadableError`` where there is none, or it was used for another device."""
        for flag in flags:
            argument = self.known(flag, name or "")
            if argument is not None and argument.read:
                raise UnreadableError(f"{flag} {name} is used by more than one device")
            if argument is not None:
                return argument
        raise UnreadableError(f"there is no {' or '.join(flags)} {name}")

    def object(self, name: str | None) -> Argument:
        return self.find(("-object",), name)

    def use(self, argument: Argument) -> Bag:
        """An argument is being read; within an attempt it is given back where the reader fails."""
        argument.read = True
        if self.used is not None:
            self.used.append(argument)
        return argument.bag

    def derive(self, origin: Argument, flag: str, text: str) -> Argument:
        """An argument in today's spelling, for one in another."""
        implied = OPTIONS[flag[1:]][1]
        made = Argument(
            flag, text, origin.place, properties_of(text, flag, origin.place, implied), origin.tokens, origin
        )
        origin.read = True
        self.arguments.append(made)
        self._index(made)
        return made

    @property
    def by_libvirt(self) -> bool:
        """libvirt (or this project) wrote the command."""
        own = (("-object", "masterKey0"), ("-chardev", "charmonitor"), ("-chardev", "monitor"))
        return any(self.known(flag, name) is not None for flag, name in own)

    @property
    def has_defaults(self) -> bool:
        """QEMU adds the devices that a machine usually has."""
        return not self.every("-nodefaults")


# -- from words -------------------------------------------------------------------------------------


def arguments_of(words: Words, file: str = "") -> Arguments:
    """Take a command apart.  Raises ``ConfigError`` where there is no QEMU in it, or an option lacks its value."""
    found = words.words
    for number, word in enumerate(found):
        _check_characters(word, number, file)
    environment: dict[str, str] = {}
    notes = list(words.notes)
    at = _find_emulator(found, environment, notes, file)
    return Arguments(environment, found[at].text, list(_arguments(found, at)), notes)


#: what an XML document can not hold, escaped or not: https://www.w3.org/TR/xml/#charsets
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def _check_characters(word: Word, number: int, file: str) -> None:
    """Raise ``ConfigError`` where a word could not be written into a document."""
    strange = _NOT_XML.search(word.text)
    if strange is not None:
        raise ConfigError(
            f"word {number + 1} of the command has a character that no document can hold: U+{ord(strange[0]):04X}",
            file=file,
            line=word.line,
        )


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


#: machine types that tell the architecture where the name of the binary does not
_MACHINES = {"pseries": "ppc64", "s390-ccw-virtio": "s390x", "virt": "aarch64"}


def arch_of(binary: str, machine: str = "") -> str:
    """libvirt's name of the architecture that an emulator of such a name has; ``qemu-kvm`` leaves it to the machine."""
    name = binary.rpartition("/")[2]
    _, dash, arch = name.partition("qemu-system-")
    arch = arch.split("-")[0].split(".")[0]
    if dash and arch:
        return _ARCHES.get(arch, arch)
    family = next((name for name in _MACHINES if machine == name or machine.startswith(f"{name}-")), "")
    return _MACHINES.get(family, "x86_64")


def _arguments(words: list[Word], at: int) -> Iterator[Argument]:
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
