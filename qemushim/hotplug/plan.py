"""What is said to a QEMU that runs: commands as values, and the conversation that follows from its answers.

https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from qemushim.command.option import Value
from qemushim.errors import DriverError, MonitorError

if TYPE_CHECKING:
    from qemushim.command.command import Descriptor
    from qemushim.document.node import Node
    from qemushim.hotplug.live import LiveGuest

#: how a command fails: QEMU refuses it, or whoever says it can not do his part
FAILURES = (MonitorError, DriverError)
#: what QEMU calls its refusal of a device that it does not have
NOT_FOUND = "DeviceNotFound"


@dataclass(frozen=True, slots=True, eq=False)
class QmpCommand:
    """One command of the monitor."""

    execute: str
    arguments: Mapping[str, Value] = field(default_factory=dict)
    #: the file descriptor that is handed over with it
    descriptor: Descriptor | None = None
    #: id of the device that is gone only when the guest has let go of it: the event ``DEVICE_DELETED`` says so
    awaits: str = ""
    #: what takes it back, in order
    undo: tuple[QmpCommand, ...] = ()
    #: where QEMU refuses it, the rest is said all the same
    optional: bool = False
    #: told what QEMU returns
    heard: Callable[[Any], None] | None = None
    #: the element of the document that asked for it, and why it is there
    source: Node | None = None
    rule: str = ""

    def __str__(self) -> str:
        from qemushim.command.option import to_json

        return f"{self.execute} {to_json(self.arguments)}" if self.arguments else self.execute


#: yields what is to be sent; is sent what QEMU returns, or thrown how it failed; returns the guest as it is then
Conversation = Generator[QmpCommand, Any, "LiveGuest"]
#: the same as a part of a conversation
Talk = Generator[QmpCommand, Any, None]


class Plan:
    """A change of a guest that runs.

    ``conversation`` begins it; ``commands`` is what is said where QEMU agrees to everything and no answer matters.
    """

    def __init__(self, begin: Callable[[], Conversation]) -> None:
        """``begin``: starts the conversation, any number of times.  Raises what is wrong with the change."""
        self.conversation = begin
        self._imagined = self._imagine()

    def _imagine(self) -> tuple[tuple[QmpCommand, ...], LiveGuest]:
        said: list[QmpCommand] = []

        def send(command: QmpCommand) -> Any:
            said.append(command)
            return [] if command.execute.startswith(("query-", "qom-list")) else {}

        guest = converse(self.conversation(), send)
        return tuple(said), guest

    @property
    def commands(self) -> tuple[QmpCommand, ...]:
        return self._imagined[0]

    @property
    def document(self) -> LiveGuest:
        """The guest afterwards, as far as it is known without QEMU's answers."""
        return self._imagined[1]

    @cached_property
    def rollback(self) -> tuple[QmpCommand, ...]:
        """What takes back all of it, in order; without fd sets whose numbers QEMU has yet to be asked for."""
        guessed = any(command.execute == "query-fdsets" for command in self.commands)
        undos = (undo for command in reversed(self.commands) for undo in command.undo)
        return tuple(undo for undo in undos if not (guessed and undo.execute == "remove-fd"))

    @cached_property
    def leftovers(self) -> tuple[QmpCommand, ...]:
        """What is still to be said when a guest lets go of its device later than somebody would wait."""
        awaited = [number for number, command in enumerate(self.commands) if command.awaits]
        return self.commands[awaited[-1] + 1 :] if awaited else ()

    def carry_out(self, send: Callable[[QmpCommand], Any]) -> LiveGuest:
        """Say all of it through ``send``, which returns what QEMU returns.

        ``send`` raises ``MonitorError`` where QEMU refuses, ``DriverError`` where it can not do its part: open a file,
        wait until a device is gone.  Then what was done is taken back, and the error is raised; the guest is as before.
        """
        return converse(self.conversation(), send)


def converse(talk: Conversation, send: Callable[[QmpCommand], Any]) -> LiveGuest:
    """Hold a conversation."""
    try:
        command = next(talk)
        while True:
            try:
                answer = send(command)
            except FAILURES as failure:
                command = talk.throw(failure)
            else:
                command = talk.send(answer)
    except StopIteration as end:
        guest: LiveGuest = end.value
        return guest


def say(commands: Iterable[QmpCommand], done: list[QmpCommand] | None = None) -> Talk:
    """Say commands in order; each that QEMU has carried out is noted in ``done``."""
    for command in commands:
        try:
            answer = yield command
        except FAILURES:
            if not command.optional:
                raise
            continue
        if command.heard is not None:
            command.heard(answer)
        if done is not None:
            done.append(command)


def take_back(done: Iterable[QmpCommand]) -> Talk:
    """Undo what was done, last first, whatever QEMU says to that."""
    for command in reversed(tuple(done)):
        for undo in command.undo:
            try:
                yield undo
            except FAILURES:
                continue
