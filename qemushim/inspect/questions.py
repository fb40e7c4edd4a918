"""Which abilities of an emulator were looked at while an argument was made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from qemushim.command.option import Option
from qemushim.emulator.model import Emulator


class Question(NamedTuple):
    """One thing that was asked of the emulator."""

    #: ``device``, ``property``, ``qapi``, ``option``, ``capability``
    kind: str
    name: str
    answer: bool

    def __str__(self) -> str:
        words = _HAS if self.answer else _HAS_NOT
        return words[self.kind].format(self.name)


_HAS = {
    "capability": "libvirt's capability {}",
    "device": "QEMU has {}",
    "option": "QEMU knows {}",
    "property": "QEMU has the property {}",
    "qapi": "QMP has {}",
}
_HAS_NOT = {kind: f"no: {words}" for kind, words in _HAS.items()}


class WatchedEmulator(Emulator):
    """An emulator that notes what it is asked; its variations note into the same list."""

    asked: list[Question]

    @classmethod
    def of(cls, emulator: Emulator) -> WatchedEmulator:
        watched = cls._make(emulator)
        watched.asked = []
        return watched

    def _replace(self, **changes: Any) -> WatchedEmulator:
        twin = super()._replace(**changes)
        twin.asked = self.asked
        return twin

    def _note(self, kind: str, name: str, answer: bool) -> bool:
        self.asked.append(Question(kind, name, answer))
        return answer

    def has_device(self, name: str) -> bool:
        return self._note("device", name, super().has_device(name))

    def has_object(self, name: str) -> bool:
        return self._note("device", name, super().has_object(name))

    def device_property(self, device: str, name: str) -> bool:
        return self._note("property", f"{device}.{name}", super().device_property(device, name))

    def qapi(self, path: str) -> bool:
        return self._note("qapi", path, super().qapi(path))

    def option(self, group: str, parameter: str = "") -> bool:
        name = f"-{group} {parameter}=" if parameter else f"-{group}"
        return self._note("option", name, super().option(group, parameter))

    def flag(self, name: str) -> bool:
        return self._note("capability", name, super().flag(name))


class WatchedOptions(list[Option]):
    """The options of a command while it grows: notes what was asked for the sake of each."""

    def __init__(self, asked: list[Question]) -> None:
        super().__init__()
        self._asked = asked
        #: an entry for each option
        self.questions: list[tuple[Question, ...]] = []

    def extend(self, options: Iterable[Option]) -> None:
        """Take the options of a group, one by one as they are made."""
        self._asked.clear()
        for option in options:
            self.append(option)
            self.questions.append(tuple(dict.fromkeys(self._asked)))
            self._asked.clear()
