"""Where each argument of a command line comes from, and what a line of the document does."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from qemushim.command.command import Command
from qemushim.command.option import Option
from qemushim.document.keep import as_utf8
from qemushim.document.node import COMMENT, Node
from qemushim.errors import ShimError, error
from qemushim.inspect.questions import Question, WatchedEmulator, WatchedOptions
from qemushim.inspect.reasons import ALWAYS, why_added
from qemushim.inspect.survey import address_text, label, lines_of

if TYPE_CHECKING:
    from qemushim.emulator.model import Emulator
    from qemushim.guest import Guest
    from qemushim.host import Host

#: where an argument comes from: an element of the document, one that was added to it, or no element at all
DOCUMENT, ADDED, ALWAYS_THERE = "document", "added", "always"

#: what decides how the value of an option is spelled, since which QEMU
_SPELLINGS = {
    "-device": Question("qapi", "device_add/$json-cli-hotplug", True),
    "-netdev": Question("qapi", "netdev_add/arg-type/type/^dgram", True),
}


class Filled(NamedTuple):
    """A value that the document leaves open."""

    #: ``address/@slot``, from the element of the argument on
    path: str
    value: str
    #: the document has something else there, which was made canonical
    was: str | None = None


@dataclass(frozen=True, slots=True)
class Argument:
    """One option of the command line, and all that is known of its origin."""

    number: int
    flag: str
    value: str | None
    #: ``document``, ``added``, ``always``
    origin: str
    #: first and last line of the element in the document, 0 where it is not there
    line: int
    end: int
    #: the element in a few words: ``disk vda``; of a part of a device the part as well: ``disk vda <source>``
    element: str
    #: the device's id, ``""`` for what is no device
    alias: str
    #: what the argument is for, in a sentence
    rule: str
    #: why the element is there, where the document does not have it
    reason: str
    #: where the device sits: ``pci 0000:01:00.0``
    place: str = ""
    #: what the document leaves open in the element
    filled: tuple[Filled, ...] = ()
    #: what was asked of the emulator before the argument was made
    asked: tuple[Question, ...] = ()

    @property
    def text(self) -> str:
        return self.flag if self.value is None else f"{self.flag} {self.value}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """A command line whose every argument says where it comes from."""

    arguments: tuple[Argument, ...]
    #: the lines of the document
    source: tuple[str, ...]

    def matching(self, wanted: Any) -> list[Argument]:
        """The arguments in which a compiled pattern is found: text, element, alias, rule."""
        return [a for a in self.arguments if wanted.search("\n".join((a.text, a.element, a.alias, a.rule)))]

    def excerpt(self, argument: Argument) -> list[tuple[int, str]]:
        """Lines of the document that an argument comes from, with their numbers."""
        if not argument.line:
            return []
        return list(enumerate(self.source[argument.line - 1 : argument.end], argument.line))


@dataclass(frozen=True, slots=True)
class LineMeaning:
    """What a line of the document does."""

    line: int
    #: the elements that begin there, else the innermost one that the line is part of
    elements: tuple[str, ...]
    first: int
    last: int
    #: arguments that come from these elements or from what is in them
    arguments: tuple[Argument, ...]
    #: those of the element around them, where these have none of their own
    around: tuple[Argument, ...]
    #: what is said where the elements are taken out: the refusal, or arguments that go and that come
    refusal: str = ""
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


# -- every argument ----------------------------------------------------------------------------------------


def explain(guest: Guest, emulator: Emulator, host: Host, *, update: bool = True) -> Explanation:
    """Every argument of the command line that a guest would be started with, and where it comes from.

    The guest is left as it is.  Raises what ``Guest.command`` raises.
    """
    defined = guest.define(emulator, host, update=update)
    watched = WatchedEmulator.of(emulator)
    options = WatchedOptions(watched.asked)
    command = Command("", options=options)
    running = defined.copy()
    running.start(watched, host, into=command)
    return _Explainer(guest, running).explain(options)


class _Explainer:
    """What is looked up again and again while arguments are explained."""

    def __init__(self, guest: Guest, running: Guest) -> None:
        self.own = {node.origin: node for node in guest.domain.node.iter() if node.origin >= 0}
        self.lines = lines_of(guest) if guest.text else {}
        self.source = tuple(as_utf8(guest.text).decode().splitlines())
        #: every element below a device → the device
        self.devices = {id(node): device for device in running.domain.every() for node in device.node.iter()}

    def explain(self, options: WatchedOptions) -> Explanation:
        arguments = [
            self._argument(number, option, asked)
            for number, (option, asked) in enumerate(zip(options, options.questions, strict=True), 1)
        ]
        return Explanation(tuple(arguments), self.source)

    def _argument(self, number: int, option: Option, asked: tuple[Question, ...]) -> Argument:
        node = option.source
        device = self.devices.get(id(node))
        holder = device.node if device is not None and node is not None and node.origin < 0 else node
        origin, reason = _origin(holder)
        line, end = 0, 0
        if origin == DOCUMENT and holder is not None:
            line, end = self.lines.get(holder.origin, (holder.line, holder.line))
        element = label(device.node if device is not None else node) if node is not None else ""
        if device is not None and node is not None and node is not device.node:
            element += f" <{node.tag}>"
        spelling = _SPELLINGS.get(option.flag)
        if spelling is not None and (option.text or "").startswith("{"):
            asked = (spelling, *asked)
        return Argument(
            number=number,
            flag=option.flag,
            value=option.text,
            origin=origin,
            line=line,
            end=end,
            element=element,
            alias=device.alias if device is not None else "",
            rule=option.rule,
            reason=reason,
            place=address_text(device) if device is not None else "",
            filled=tuple(self._filled(holder)) if line and device is not None and holder is not None else (),
            asked=asked,
        )

    def _filled(self, node: Node, path: str = "") -> Iterator[Filled]:
        """What the definition has at and below an element that the document has not."""
        own = self.own.get(node.origin)
        known = own.attrib if own is not None else {}
        for name, value in node.attrib.items():
            if known.get(name) != value:
                yield Filled(f"{path}@{name}", value, known.get(name))
        for child in node.children:
            if child.tag != COMMENT and not (own is None and child.origin >= 0):
                yield from self._filled(child, f"{path}{child.tag}/")


def _origin(node: Node | None) -> tuple[str, str]:
    """Where an element comes from, and why it is there if the document has it not."""
    if node is None or node.tag == "domain":
        return (ALWAYS_THERE, ALWAYS) if node is None else (DOCUMENT, "")
    if node.origin < 0:
        return ADDED, why_added(node)
    return DOCUMENT, ""


# -- the other way round -----------------------------------------------------------------------------------


def explain_line(
    guest: Guest, line: int, emulator: Emulator, host: Host, *, update: bool = True
) -> LineMeaning:
    """What a line of the document does: the arguments that it is behind, and what changes without it.

    Raises ``ConfigError`` where the document has no such line or no element there, and what ``explain`` raises.
    """
    lines = lines_of(guest)
    nodes = _at_line(guest, line, lines)
    whole = explain(guest, emulator, host, update=update)
    first, last = min(lines[n.origin][0] for n in nodes), max(lines[n.origin][1] for n in nodes)
    own = tuple(a for a in whole.arguments if a.line and first <= a.line and a.end <= last)
    around: tuple[Argument, ...] = ()
    if not own:
        holders = [a for a in whole.arguments if a.line and a.line <= first and last <= a.end]
        closest = max(holders, key=lambda a: a.line, default=None)
        if closest is not None and closest.element != "domain":
            around = tuple(
                a
                for a in whole.arguments
                if a.line == closest.line or (a.alias and a.alias == closest.alias and a.origin == DOCUMENT)
            )
    refusal, removed, added = _without(guest, nodes, emulator, host, update=update)
    return LineMeaning(
        line, tuple(map(label, nodes)), first, last, own, around, refusal, tuple(removed), tuple(added)
    )


def _at_line(guest: Guest, line: int, lines: dict[int, tuple[int, int]]) -> list[Node]:
    """The outermost elements that begin at a line, else the innermost one that it is part of."""
    known = [node for node in guest.domain.node.iter() if node.origin in lines]
    found: list[Node] = []
    inside: set[int] = set()
    for node in known:
        if lines[node.origin][0] == line and node.origin not in inside:
            found.append(node)
            inside.update(below.origin for below in node.iter())
    if found:
        return found
    around = [node for node in known if lines[node.origin][0] <= line <= lines[node.origin][1]]
    if not around:
        span = lines.get(guest.domain.node.origin, (1, 1))
        hint = f"the domain is at lines {span[0]} to {span[1]}"
        raise error.argument(f"no element of the document is at line {line}", hint=hint)
    return [max(around, key=lambda node: (lines[node.origin][0], node.origin))]


def _without(
    guest: Guest, nodes: Sequence[Node], emulator: Emulator, host: Host, *, update: bool
) -> tuple[str, list[str], list[str]]:
    """The command line without some elements, as what it has less and what it has more."""
    before = _texts(guest, emulator, host, update=update)
    gone = {node.origin for node in nodes}
    if guest.domain.node.origin in gone:
        return "there is no guest without it", [], []
    # a device is taken out of the definition, so that the others stay where they are
    devices = guest.domain.node.child("devices")
    whole = devices is not None and any(node in devices.children for node in nodes)
    root = (guest.define(emulator, host, update=update) if whole else guest).domain.node.copy()
    for node in root.iter():
        node.children = [child for child in node.children if child.origin not in gone]
    try:
        after = _texts(type(guest)(root, guest.file), emulator, host, update=update and not whole)
    except ShimError as problem:
        return problem.message, [], []
    changes = list(difflib.ndiff(before, after))
    return "", [c[2:] for c in changes if c[0] == "-"], [c[2:] for c in changes if c[0] == "+"]


def _texts(guest: Guest, emulator: Emulator, host: Host, *, update: bool) -> list[str]:
    return [" ".join(option.tokens) for option in guest.command(emulator, host, update=update).options]


# -- data --------------------------------------------------------------------------------------------------


def argument_data(argument: Argument) -> dict[str, Any]:
    """One argument, ready for JSON (docs/explain.md has the schema)."""
    data = asdict(argument)
    data["filled"] = [filled._asdict() for filled in argument.filled]
    data["asked"] = [question._asdict() for question in argument.asked]
    return data


def explanation_data(arguments: Sequence[Argument]) -> dict[str, Any]:
    return {"schema": "qemushim.explain/1", "arguments": [argument_data(a) for a in arguments]}


def line_data(meaning: LineMeaning) -> dict[str, Any]:
    """What a line does, ready for JSON (docs/explain.md has the schema)."""
    return {
        "schema": "qemushim.explain-line/1",
        "line": meaning.line,
        "elements": list(meaning.elements),
        "first": meaning.first,
        "last": meaning.last,
        "arguments": [argument_data(a) for a in meaning.arguments],
        "around": [argument_data(a) for a in meaning.around],
        "without": {
            "refusal": meaning.refusal,
            "removed": list(meaning.removed),
            "added": list(meaning.added),
        },
    }
