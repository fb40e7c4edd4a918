"""What a phase carries along: ``Define`` while a definition is completed, ``Build`` while a command line is made."""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from qemushim.board import Board
from qemushim.command.command import Command, Descriptor
from qemushim.command.option import (
    Option,
    Pairs,
    Properties,
    Value,
    compact,
    escape_commas,
    key_values,
    to_json,
)
from qemushim.document.node import Node
from qemushim.emulator.model import Emulator, Machine
from qemushim.errors import error
from qemushim.host import NEXT, Host

if TYPE_CHECKING:
    from qemushim.address.past import Past
    from qemushim.devices.base import Device
    from qemushim.machine.domain import Domain

T = TypeVar("T")


class Context:
    """A domain, the emulator and the host that it is defined or built for."""

    def __init__(self, domain: Domain, emulator: Emulator, host: Host) -> None:
        self.domain = domain
        self.emulator = emulator
        self.host = host

    @property
    def board(self) -> Board:
        return self.domain.board

    @property
    def machine(self) -> Machine | None:
        """What the emulator says of the guest's machine type."""
        return self.emulator.machine(self.domain.board.machine, self.domain.virt)


class Define(Context):
    """Completing a definition.

    ``update``: the definition is new, so today's defaults may be used (libvirt's ABI_UPDATE); without it the document
    describes a guest that exists, whose guest-visible hardware may not change.
    """

    def __init__(
        self,
        domain: Domain,
        emulator: Emulator,
        host: Host,
        *,
        update: bool = True,
        start: bool = False,
        placed: bool = False,
        live: bool = False,
        incoming: str = "",
        past: Past | None = None,
        beside: tuple[Device, ...] = (),
    ) -> None:
        super().__init__(domain, emulator, host)
        self.update = update
        #: a start is being prepared: what is left open in a stored definition is decided now
        self.start = start
        #: every device has its address already
        self.placed = placed
        #: the document is one of a guest that runs: what it has only while it does is kept
        self.live = live
        #: where the guest migrates in from, ``""`` for a fresh start
        self.incoming = incoming
        #: what the guest was so far: what the document leaves out is kept
        self.past = past
        #: devices of another document of the guest, whose places are to be left free
        self.beside = beside


class Build(Context):
    """Making a command line: how options are spelled for this emulator, and what is counted along the way."""

    def __init__(
        self,
        domain: Domain,
        emulator: Emulator,
        host: Host,
        command: Command | None = None,
        *,
        incoming: str = "",
        export: bool = False,
        alone: bool = False,
        paused: bool = True,
    ) -> None:
        super().__init__(domain, emulator, host)
        self.command = Command("") if command is None else command
        #: where the guest migrates in from (``tcp:10.0.0.1:5000``, ``fd:7``), ``""`` for a fresh start
        self.incoming = incoming
        #: nothing of the host is prepared (``virsh domxml-to-native``)
        self.export = export
        #: run by hand: QEMU itself opens and decides what libvirt would pass and decide
        self.alone = alone
        #: the guest waits for a command before its first instruction
        self.paused = paused
        #: shared results of one build, by purpose (see ``once``)
        self.notes: dict[str, Any] = {}
        # QEMU 7.0 keeps JSON -device options hotpluggable; 7.2 takes JSON for -netdev
        self._json_device = emulator.qapi("device_add/$json-cli-hotplug")
        self._json_netdev = emulator.qapi("netdev_add/arg-type/type/^dgram")
        self._overrides = _read_overrides(domain)
        self._fd_sets = 0

    # -- paths and names ---------------------------------------------------------------------------------------------

    @property
    def short_name(self) -> str:
        """``ID-NAME``: what libvirt calls a guest in paths, the name cut to 20 characters."""
        return f"{self.host.domain_id}-{self.domain.name[:20]}"

    @property
    def domain_dir(self) -> str:
        """The directory that belongs to this guest alone."""
        return self.host.paths.guest or f"{self.host.paths.lib}/domain-{self.short_name}"

    @property
    def ram_dir(self) -> str:
        """Where the files of the guest's memory are."""
        return self.host.paths.guest or f"{self.host.paths.ram}/{self.short_name}"

    # -- options -----------------------------------------------------------------------------------------------------

    def option(
        self, flag: str, text: str | None = None, source: Node | None = None, rule: str = ""
    ) -> Option:
        return Option(flag, text, source, rule)

    def pairs(
        self, flag: str, head: str, pairs: Properties | Pairs, source: Node | None = None, rule: str = ""
    ) -> Option:
        """An option that is always ``head,key=value,…``."""
        return Option(flag, key_values(pairs, head), source, rule)

    def device(self, properties: Properties, source: Node | None = None, rule: str = "") -> Option:
        """``-device``: ``driver`` first; None values are absent; the user's overrides are applied."""
        given = plain = compact(properties)
        changes = self._overrides.get(str(given.get("id", ""))) if self._overrides else None
        if changes:
            given = _override(given, changes)
        if self._json_device:
            return Option("-device", to_json(given), source, rule, plain)
        text = key_values(
            {key: value for key, value in given.items() if key != "driver"}, str(given["driver"])
        )
        return Option("-device", text, source, rule, plain)

    def netdev(self, properties: Properties, source: Node | None = None, rule: str = "") -> Option:
        """``-netdev``: ``type`` first, ``id`` last."""
        given = compact(properties)
        if self._json_netdev:
            return Option("-netdev", to_json(given), source, rule, given)
        flat: list[tuple[str, Value]] = []
        for key, value in given.items():
            if key == "type":
                continue
            if isinstance(value, list):
                flat.extend((key, entry["str"]) for entry in value if isinstance(entry, dict))
            else:
                flat.append((key, value))
        return Option("-netdev", key_values(flat, str(given["type"])), source, rule, given)

    def object(self, properties: Properties, source: Node | None = None, rule: str = "") -> Option:
        """``-object``: ``qom-type`` and ``id`` first.  JSON since QEMU 6.0."""
        given = compact(properties)
        if self.emulator.version >= (6, 0, 0):
            return Option("-object", to_json(given), source, rule, given)
        text = key_values(_flat(given), str(given["qom-type"]))
        return Option("-object", text, source, rule, given)

    def blockdev(self, properties: Properties, source: Node | None = None, rule: str = "") -> Option:
        """``-blockdev``: None is JSON's null here, so what is absent must not be given."""
        return Option("-blockdev", to_json(properties), source, rule, properties)

    # -- file descriptors --------------------------------------------------------------------------------------------

    def pass_fd(self, number: int | None, kind: str, target: str = "", user: str = "") -> int | str:
        """Note that the process inherits a descriptor, and give its number back; ``None``: the next free one.

        What is passed to a guest that runs goes by a name instead.
        """
        if number is None or number == NEXT:
            number = self.host.descriptors.first + len(self.command.descriptors)
        self.command.descriptors.append(Descriptor(number, kind, target, user))
        return number

    def new_fd_set(self) -> int:
        """The number of the next fd set, counted in the order of preparation."""
        self._fd_sets += 1
        return self._fd_sets - 1

    def add_fd(self, fd_set: int, number: int | str, opaque: str, source: Node | None = None) -> Option:
        text = f"set={fd_set},fd={number},opaque={opaque}"
        properties: Properties = {"fdset-id": fd_set, "opaque": opaque}
        return Option("-add-fd", text, source, "a file that libvirt opens for QEMU", properties)

    # -- secrets -----------------------------------------------------------------------------------------------------

    def secret(self, alias: str, plain: bytes, source: Node | None = None) -> Option:
        """A secret object, encrypted with the guest's master key; in the clear for a QEMU that is run by hand."""
        if self.alone:
            text = _base64(plain)
            clear = {"qom-type": "secret", "id": alias, "data": text, "format": "base64"}
            return self.object(clear, source, "a secret, in the clear")
        if not self.emulator.has_object("secret"):
            raise error.unsupported("this QEMU has no objects for secrets", source, "QEMU 2.6 or newer")
        iv = self.host.random_iv
        properties = {
            "qom-type": "secret",
            "id": alias,
            "data": self.host.encrypt(plain, iv),
            "keyid": "masterKey0",
            "iv": _base64(iv),
            "format": "base64",
        }
        return self.object(properties, source, "a secret, encrypted with the guest's master key")

    def tls_credentials(
        self,
        name: str,
        directory: str,
        *,
        server: bool,
        verify: bool,
        password: str | None = None,
        source: Node | None = None,
    ) -> Option:
        properties = {
            "qom-type": "tls-creds-x509",
            "id": name,
            "dir": directory,
            "endpoint": "server" if server else "client",
            "verify-peer": verify,
            "passwordid": password,
        }
        return self.object(properties, source, "the certificates for TLS with the server or its clients")

    # -- what is worked out once -------------------------------------------------------------------------------------

    def once(self, purpose: str, make: Callable[[], T]) -> T:
        """The result of ``make``, called the first time only."""
        if purpose not in self.notes:
            self.notes[purpose] = make()
        found: T = self.notes[purpose]
        return found


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def _read_overrides(domain: Domain) -> dict[str, list[Node]]:
    """Alias → the properties of ``<qemu:override>`` for it."""
    found: dict[str, list[Node]] = {}
    override = domain.node.child("qemu:override")
    for device in override.all("qemu:device") if override is not None else ():
        front = device.child("qemu:frontend")
        if front is not None:
            found.setdefault(device.get("alias") or "", []).extend(front.all("qemu:property"))
    return found


def _flat(properties: Properties) -> Iterator[tuple[str, Value]]:
    """The properties of an object as QEMU < 6.0 takes them: no tables, and a list is a key that is repeated."""
    for key, value in properties.items():
        if isinstance(value, list):
            yield from ((key, entry) for entry in value)
        elif isinstance(value, Mapping):
            yield from ((f"x-{inner}", deeper) for inner, deeper in value.items())
        elif key != "qom-type":
            yield key, value


def _override(properties: dict[str, Value], changes: Iterable[Node]) -> dict[str, Value]:
    """``<qemu:override>``: each named property is taken away, and appended with the user's value."""
    given = dict(properties)
    for change in changes:
        name, kind, value = change.get("name") or "", change.get("type"), change.get("value") or ""
        given.pop(name, None)
        if kind == "string":
            given[name] = value
        elif kind in ("signed", "unsigned"):
            given[name] = int(value, 0)
        elif kind == "bool":
            given[name] = value == "true"
    return given


__all__ = ["Build", "Context", "Define", "escape_commas"]
