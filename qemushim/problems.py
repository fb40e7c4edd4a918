"""Everything that is wrong with a document at once, where ``Guest.define`` stops at the first mistake.

Every rule stays where it is: what a rule refuses is noted and taken out of the document, and the rest is looked at
again.  An element that was refused is not spoken of twice, and an error that can not be placed ends the search, so
that one mistake is not told as many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.document.item import check
from qemushim.document.node import Node
from qemushim.errors import ConfigError, ShimError

if TYPE_CHECKING:
    from qemushim.emulator.model import Emulator
    from qemushim.guest import Guest
    from qemushim.host import Host

#: problems of one document that are looked for; nobody reads more
ENOUGH = 200


def find_problems(guest: Guest, emulator: Emulator, host: Host, *, update: bool = True) -> list[ConfigError]:
    """Every independent mistake of a guest, for one emulator and one host, in the order of the lines.

    The guest may have been made without reading its values (``Guest(parse(text))``); it stays as it is.
    """
    search = _Search(guest)
    search.values()
    while len(search.found) < ENOUGH and search.once_more(emulator, host, update):
        pass
    for problem in search.found:
        problem.file = problem.file or guest.file
    return sorted(search.found, key=lambda problem: problem.line)


#: what no guest can be without → what it is instead, to go on
_STAND_INS = {"memory": "1048576", "name": "guest", "vcpu": "1"}


class _Search:
    """A document that gets smaller, and what was found in it."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.root = guest.domain.node.copy()
        self.found: list[ConfigError] = []
        #: parts of which something was told: by number in the document (``Node.origin``)
        self.told: set[int] = set()
        #: whether something guest-wide is missing now, which others may depend on
        self.is_torn = False

    def values(self) -> None:
        """Declared values that can not be read.  Devices that have one are out of what follows."""
        wrong: list[tuple[Node, str]] = []

        def report(problem: ConfigError, node: Node, attribute: str) -> None:
            self.found.append(problem)
            wrong.append((node, attribute))

        check(self.root, type(self.guest.domain).schema, report)
        for node, attribute in wrong:
            part = self.part(node)
            if attribute in node.attrib:
                node.drop(attribute)
            elif not attribute:
                node.text = ""
            if part is not None:
                self.told.add(part.origin)
                self.take_out(part)

    def once_more(self, emulator: Emulator, host: Host, update: bool) -> bool:
        """Look for one more problem; whether to go on."""
        guest = type(self.guest)(self.root.copy(), self.guest.file)
        try:
            guest.command(emulator, host, update=update)
        except ConfigError as problem:
            return self.note(problem)
        except ShimError as problem:
            self.found.append(ConfigError(problem.message, hint=problem.hint))
        return False

    def note(self, problem: ConfigError) -> bool:
        """Keep a problem unless it follows from another, and take out what it is about."""
        node = self.place(problem)
        part = self.part(node) if node is not None else None
        if part is None:
            if not self.is_torn:
                self.found.append(problem)
            return False
        if part.origin not in self.told:
            self.found.append(problem)
        self.told.add(part.origin)
        return self.take_out(part)

    def place(self, problem: ConfigError) -> Node | None:
        """The element of the document that a problem is about; the nearest by line for what was added to it."""
        element = problem.element
        if element is not None and element.origin >= 0:
            return next((node for node in self.root.iter() if node.origin == element.origin), None)
        if element is None:
            # said of the guest as a whole
            return None
        here = [node for node in self.root.iter() if node.line == problem.line and node is not self.root]
        return here[-1] if problem.line and len(here) == 1 else None

    def part(self, node: Node) -> Node | None:
        """The device that holds an element, else the child of ``<domain>`` that does; None for the root."""
        for child in self.root.children:
            if child.tag == "devices":
                for device in child.children:
                    if any(inner is node for inner in device.iter()):
                        return device
            elif any(inner is node for inner in child.iter()):
                return child
        return None

    def take_out(self, part: Node) -> bool:
        """Remove a part, or put something right in its place; False where that is done already."""
        if part.tag in _STAND_INS and any(child is part for child in self.root.children):
            if part.text == _STAND_INS[part.tag]:
                return False
            part.attrib, part.children, part.text = {}, [], _STAND_INS[part.tag]
            return True
        devices = self.root.child("devices")
        for parent in (devices, self.root):
            if parent is not None and any(child is part for child in parent.children):
                parent.remove(part)
                self.is_torn = self.is_torn or parent is self.root
                return True
        return False


__all__ = ["ENOUGH", "find_problems"]
