"""``Connection``: a libvirt connection whose guests keep their addresses.  https://libvirt.org/html/libvirt-libvirt-host.html

It stands in for a ``libvirt.virConnect``: every call that is not written here goes to the real one, and whatever domain
comes back is wrapped like the connection.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import libvirt

from qemushim.driver.domain import WrappedDomain
from qemushim.driver.plan import Plan, make_plan, parsed
from qemushim.driver.refusal import libvirt_errors
from qemushim.driver.site import TYPES, Site
from qemushim.emulator.model import Emulator
from qemushim.errors import DriverError
from qemushim.guest import Guest
from qemushim.host import Host

#: method → which of its arguments is a callback that is given the connection
_CALLBACKS = {
    "domainEventRegisterAny": 2,
    "networkEventRegisterAny": 2,
    "nodeDeviceEventRegisterAny": 2,
    "registerCloseCallback": 0,
    "secretEventRegisterAny": 2,
    "storagePoolEventRegisterAny": 2,
}


class Connection:
    """See ``qemushim.open``.  ``raw``: the ``libvirt.virConnect``."""

    def __init__(
        self,
        raw: Any,
        *,
        emulator: str | Emulator | None = None,
        host: Host | None = None,
        strict: bool = False,
    ) -> None:
        self._raw = raw
        self._site = Site(raw, emulator, host)
        #: refuse to define what would be another machine for the guest
        self.strict = strict
        #: what is read, worked out and written belongs together
        self._lock = threading.RLock()
        self._secrets = libvirt.VIR_DOMAIN_XML_SECURE
        self._callbacks: dict[Any, Callable[..., Any]] = {}

    # -- ours ----------------------------------------------------------------------------------------------------

    def plan(self, xml: str | bytes, *, file: str = "") -> Plan:
        """What ``defineXML`` would define.  Nothing is changed.  ``file``: what errors call the document.

        Raises ``ConfigError`` or ``AddressError`` (each a ``libvirt.libvirtError`` too) where the document can not be
        defined, ``DriverError`` where the connection's guests are not QEMU's.
        """
        with libvirt_errors(), self._lock:
            guest = Guest.from_xml(xml, file)
            if not self._is_ours(guest):
                raise DriverError(
                    f"guests of type '{guest.domain.node.get('type')}' on {self._site.uri} are not QEMU's",
                    hint="they are defined as they are: use defineXML",
                )
            return make_plan(guest, self._site, *self._documents(guest))

    def define(self, plan: Plan) -> WrappedDomain:
        """Define what was planned, exactly."""
        with self._lock:
            domain: WrappedDomain = self._wrap(self._raw.defineXML(plan.xml))
            return domain

    def defineXML(self, xml: str) -> WrappedDomain:  # noqa: N802
        """Define a guest by our rules; one that exists keeps every address that the document does not name."""
        return self._defined(xml, "defineXML")

    def defineXMLFlags(self, xml: str, flags: int = 0) -> WrappedDomain:  # noqa: N802
        return self._defined(xml, "defineXMLFlags", flags)

    def createXML(self, xmlDesc: str, flags: int = 0) -> WrappedDomain:  # noqa: N802, N803
        """Start a guest without storing it; where one of the name is stored, it has the addresses of that."""
        return self._defined(xmlDesc, "createXML", flags)

    def createXMLWithFiles(self, xmlDesc: str, files: list[int], flags: int = 0) -> WrappedDomain:  # noqa: N802, N803
        return self._defined(xmlDesc, "createXMLWithFiles", files, flags)

    def createLinux(self, xmlDesc: str, flags: int = 0) -> WrappedDomain:  # noqa: N802, N803
        return self._defined(xmlDesc, "createLinux", flags)

    def _defined(self, xml: str, call: str, *rest: Any) -> WrappedDomain:
        with self._lock:
            text = xml
            with libvirt_errors():
                guest = self._readable(xml)
                if guest is not None:
                    plan = make_plan(guest, self._site, *self._documents(guest))
                    if self.strict:
                        plan.require_same_machine()
                    text = plan.xml
            domain: WrappedDomain = self._wrap(getattr(self._raw, call)(text, *rest))
            return domain

    def _readable(self, xml: str) -> Guest | None:
        """The document, where it is for us to define."""
        if not self._site.is_ours:
            return None
        guest = Guest.from_xml(xml)
        return guest if self._is_ours(guest) else None

    def _is_ours(self, guest: Guest) -> bool:
        """What is not QEMU's goes to libvirt as it is.  What lacks a type is refused in libvirt's words."""
        return self._site.is_ours and guest.domain.node.get("type") in (None, *TYPES)

    # -- what is known of a guest ----------------------------------------------------------------------------------

    def _documents(self, guest: Guest) -> tuple[Guest | None, Guest | None]:
        """The stored and the live document of the guest that a new document is of."""
        raw = self._find(guest.domain.uuid, guest.name)
        return self._documents_of(raw) if raw is not None else (None, None)

    def _find(self, uuid: str | None, name: str) -> Any:
        """The domain of that UUID, else of that name; none of the lookups that complain where there is none."""
        from qemushim.document.units import canonical_uuid

        wanted = canonical_uuid(uuid) if uuid else None
        domains = self._raw.listAllDomains(0)
        found = [domain for domain in domains if wanted and domain.UUIDString() == wanted]
        return next(iter([*found, *(domain for domain in domains if domain.name() == name)]), None)

    def _documents_of(self, raw: Any) -> tuple[Guest | None, Guest | None]:
        stored = self._document(raw, libvirt.VIR_DOMAIN_XML_INACTIVE) if raw.isPersistent() else None
        return stored, self._document(raw, 0) if raw.isActive() else None

    def _document(self, raw: Any, flags: int) -> Guest:
        """With its passwords, which what is made of it must not lose; a read-only connection does not tell them."""
        try:
            return parsed(raw.XMLDesc(flags | self._secrets))
        except libvirt.libvirtError as problem:
            if not self._secrets or problem.get_error_code() != libvirt.VIR_ERR_OPERATION_DENIED:
                raise
        self._secrets = 0
        return parsed(raw.XMLDesc(flags))

    # -- the rest is libvirt's -------------------------------------------------------------------------------------

    def domainEventRegister(self, cb: Callable[..., Any], opaque: Any) -> Any:  # noqa: N802
        self._callbacks[cb] = self._calling(cb)
        return self._raw.domainEventRegister(self._callbacks[cb], opaque)

    def domainEventDeregister(self, cb: Callable[..., Any]) -> Any:  # noqa: N802
        return self._raw.domainEventDeregister(self._callbacks.pop(cb, cb))

    def _calling(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """A callback that is given this connection and wrapped domains."""

        @wraps(callback)
        def call(*given: Any) -> Any:
            return callback(*map(self._wrap, given))

        return call

    def _registering(self, register: Callable[..., Any], at: int) -> Callable[..., Any]:
        """A method of libvirt's whose argument at that place, ``cb``, is a callback."""

        @wraps(register)
        def call(*words: Any, **named: Any) -> Any:
            given = [self._calling(word) if place == at else word for place, word in enumerate(words)]
            return register(*given, **{k: self._calling(v) if k == "cb" else v for k, v in named.items()})

        return call

    def _wrap(self, value: Any) -> Any:
        """Domains wrapped, in lists and tuples too; anything else as it is."""
        if isinstance(value, libvirt.virDomain):
            return WrappedDomain(self, value)
        if isinstance(value, list):
            return [self._wrap(item) for item in value]
        if isinstance(value, tuple):
            return tuple(self._wrap(item) for item in value)
        return self if value is self._raw else value

    def __getattr__(self, name: str) -> Any:
        if name == "_raw":
            raise AttributeError(name)  # of an object that is only half made, by copy or pickle
        member = getattr(self._raw, name)
        if name in _CALLBACKS:
            member = self._registering(member, _CALLBACKS[name])
        return passed_through(self, member)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._raw)})

    def __repr__(self) -> str:
        return f"<qemushim connection to {self._site.uri}>"


def passed_through(connection: Connection, member: Any) -> Any:
    """An attribute of a libvirt object; what its methods return is wrapped."""
    if not callable(member):
        return connection._wrap(member)

    @wraps(member)
    def call(*words: Any, **named: Any) -> Any:
        # a domain that has moved belongs to the connection that it moved to
        target = next((word for word in words if isinstance(word, Connection)), connection)
        return target._wrap(member(*words, **named))

    return call
