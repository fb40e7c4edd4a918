"""A QEMU that is only imagined: it keeps what it is told to make, and refuses what does not add up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qemushim.errors import MonitorError
from qemushim.hotplug import QmpCommand

#: command → what it makes, and the argument that names it
MAKES = {
    "blockdev-add": ("node", "node-name"),
    "chardev-add": ("chardev", "id"),
    "device_add": ("device", "id"),
    "getfd": ("descriptor", "fdname"),
    "netdev_add": ("netdev", "id"),
    "object-add": ("object", "id"),
}
UNMAKES = {
    "blockdev-del": ("node", "node-name"),
    "chardev-remove": ("chardev", "id"),
    "closefd": ("descriptor", "fdname"),
    "device_del": ("device", "id"),
    "netdev_del": ("netdev", "id"),
    "object-del": ("object", "id"),
}
#: argument → the kind of thing that it names
REFERS = {
    "backing": "node",
    "chardev": "chardev",
    "drive": "node",
    "file": "node",
    "key-secret": "object",
    "memdev": "object",
    "netdev": "netdev",
    "pr-manager": "object",
    "rng": "object",
    "tls-creds": "object",
}
#: arguments that may name descriptors which were handed over, several with colons between
DESCRIPTORS = ("fd", "fds", "str", "vhostfd", "vhostfds")


class FakeQemu:
    """``send`` is what a plan is carried out with."""

    def __init__(
        self, *, refuses: str = "", keeps: str = "", present: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """``refuses``: a command that fails; ``keeps``: a device that the guest does not let go of."""
        self.refuses = refuses
        self.keeps = keeps
        #: (kind, name) → what it refers to
        self.things: dict[tuple[str, str], set[tuple[str, str]]] = {thing: set() for thing in present}
        self.fd_sets: dict[int, str] = {}
        self.said: list[str] = []

    def send(self, command: QmpCommand) -> Any:
        name, arguments = command.execute, dict(command.arguments)
        self.said.append(name)
        if name == self.refuses:
            raise MonitorError(f"{name} is refused")
        if name in MAKES:
            return self.make(*MAKES[name], name, arguments)
        if name in UNMAKES:
            return self.unmake(*UNMAKES[name], arguments, command)
        if name == "add-fd":
            assert command.descriptor is not None
            assert arguments["fdset-id"] not in self.fd_sets
            self.fd_sets[arguments["fdset-id"]] = arguments["opaque"]
            return {"fdset-id": arguments["fdset-id"], "fd": 42}
        if name == "remove-fd":
            del self.fd_sets[arguments["fdset-id"]]
        if name == "query-fdsets":
            return [{"fdset-id": n, "fds": [{"fd": 1, "opaque": words}]} for n, words in self.fd_sets.items()]
        return [] if name.startswith(("query-", "qom-")) else {}

    def make(self, kind: str, key: str, name: str, arguments: Mapping[str, Any]) -> Any:
        thing = (kind, str(arguments[key]))
        if thing in self.things:
            raise MonitorError(f"there is a {kind} {thing[1]} already")
        needs = set(self._needs(arguments))
        missing = needs - self.things.keys()
        if missing:
            raise MonitorError(f"{name} needs {sorted(missing)}")
        # a descriptor that was handed over is used up
        for used in [need for need in needs if need[0] == "descriptor"]:
            del self.things[used]
        self.things[thing] = {need for need in needs if need[0] != "descriptor"}
        is_terminal = name == "chardev-add" and arguments["backend"]["type"] == "pty"
        return {"pty": "/dev/pts/7"} if is_terminal else {}

    def unmake(self, kind: str, key: str, arguments: Mapping[str, Any], command: QmpCommand) -> Any:
        thing = (kind, str(arguments[key]))
        if thing not in self.things:
            raise MonitorError(f"there is no {kind} {thing[1]}")
        users = [name for name, needs in self.things.items() if thing in needs]
        if users:
            raise MonitorError(f"{thing[1]} is used by {users}")
        if kind == "device":
            assert command.awaits == thing[1], "nobody waits until the device is gone"
            if self.keeps == thing[1]:
                raise MonitorError(f"the guest keeps {self.keeps}")
        del self.things[thing]
        return {}

    def _needs(self, value: Any) -> Iterator[tuple[str, str]]:
        """What the arguments of a command refer to."""
        if isinstance(value, Mapping):
            for name, inner in value.items():
                if name in REFERS and isinstance(inner, str):
                    yield REFERS[name], inner
                elif name in DESCRIPTORS and isinstance(inner, str):
                    handed = (("descriptor", part) for part in inner.split(":"))
                    yield from (thing for thing in handed if thing in self.things)
                else:
                    yield from self._needs(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from self._needs(inner)
