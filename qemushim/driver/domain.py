"""``WrappedDomain``: a libvirt domain whose devices are attached where we say.

https://libvirt.org/html/libvirt-libvirt-domain.html
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import libvirt

from qemushim.driver.plan import define, whole
from qemushim.driver.plug import Joining, completed, plan_joining, replaced, the_device, without
from qemushim.driver.refusal import is_unable, libvirt_errors
from qemushim.errors import ConfigError
from qemushim.guest import Guest

if TYPE_CHECKING:
    from qemushim.driver.connection import Connection

LIVE: int = libvirt.VIR_DOMAIN_AFFECT_LIVE
CONFIG: int = libvirt.VIR_DOMAIN_AFFECT_CONFIG
#: what may be said beside which documents are meant
_MODIFIERS: int = libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE


class WrappedDomain:
    """Stands in for a ``libvirt.virDomain``; what is not written here goes to the real one."""

    def __init__(self, connection: Connection, raw: Any) -> None:
        self._connection = connection
        self._raw = raw

    # -- attach ----------------------------------------------------------------------------------------------------

    def attachDevice(self, xml: str) -> int:  # noqa: N802
        return self.attachDeviceFlags(xml, LIVE)

    def attachDeviceFlags(self, xml: str, flags: int = 0) -> int:  # noqa: N802
        """Attach a device.  With ``AFFECT_LIVE | AFFECT_CONFIG`` it has the same place in both documents.

        Raises ``AddressError`` where no place is free (it says what is full and what to add), ``ConfigError`` where the
        device can not be had; each is a ``libvirt.libvirtError`` too.
        """
        with self._connection._lock:
            if not self._is_ours():
                return int(self._raw.attachDeviceFlags(xml, flags))
            with libvirt_errors():
                wanted = self._resolved(flags)
                stored, live = self._connection._documents_of(self._raw)
                self._check_state(wanted, stored, live)
                into = "both" if wanted == LIVE | CONFIG else "live" if wanted == LIVE else "config"
                joining = plan_joining(xml, self._connection._site, stored, live, into=into)
            self._attach(joining, wanted, flags & ~(LIVE | CONFIG))
            return 0

    def _attach(self, joining: Joining, wanted: int, rest: int) -> None:
        done: list[tuple[str, int]] = []
        try:
            if wanted == LIVE | CONFIG and joining.live == joining.config and not self._redefines:
                try:
                    self._attach_each(joining.live, wanted | rest, done)
                    return
                except libvirt.libvirtError as problem:
                    if not is_unable(problem) or done:
                        raise
            if wanted & LIVE:
                self._attach_each(joining.live, LIVE | rest, done)
            if wanted & CONFIG:
                self._attach_config(joining, rest, done)
        except BaseException:
            for text, flags in reversed(done):
                with suppress(libvirt.libvirtError):
                    self._raw.detachDeviceFlags(text, flags)
            raise

    def _attach_each(self, texts: list[str], flags: int, done: list[tuple[str, int]]) -> None:
        for text in texts:
            self._raw.attachDeviceFlags(text, flags)
            done.append((text, flags & (LIVE | CONFIG)))

    def _attach_config(self, joining: Joining, rest: int, done: list[tuple[str, int]]) -> None:
        assert joining.definition is not None
        _require_known(rest)
        if self._redefines or len(joining.config) > 1:
            self._redefine(joining.definition)
            return
        try:
            self._attach_each(joining.config, CONFIG | rest, done)
        except libvirt.libvirtError as problem:
            if not is_unable(problem):
                raise
            self._redefine(joining.definition)

    # -- detach ----------------------------------------------------------------------------------------------------

    def detachDevice(self, xml: str) -> int:  # noqa: N802
        return self.detachDeviceFlags(xml, LIVE)

    def detachDeviceFlags(self, xml: str, flags: int = 0) -> int:  # noqa: N802
        """Detach a device; every other one stays where it is."""
        return self._changed(
            flags,
            lambda bits: self._raw.detachDeviceFlags(xml, bits),
            lambda stored: without(stored, the_device(xml, stored)),
        )

    def detachDeviceAlias(self, alias: str, flags: int = 0) -> int:  # noqa: N802
        def definition(stored: Guest) -> Guest:
            for device in stored.domain.every():
                if device.alias_name == alias:
                    return without(stored, device)
            raise ConfigError(f"device not found: no device with alias '{alias}'", hint="say an alias of it")

        return self._changed(flags, lambda bits: self._raw.detachDeviceAlias(alias, bits), definition)

    # -- update ----------------------------------------------------------------------------------------------------

    def updateDeviceFlags(self, xml: str, flags: int = 0) -> int:  # noqa: N802
        """Change a device; it keeps its place where the XML names none."""
        with self._connection._lock:
            if not self._is_ours():
                return int(self._raw.updateDeviceFlags(xml, flags))
            with libvirt_errors():
                wanted = self._resolved(flags)
                stored, live = self._connection._documents_of(self._raw)
                self._check_state(wanted, stored, live)
                documents = {CONFIG: stored, LIVE: live}
                texts = {
                    bit: _completed(xml, guest)
                    for bit, guest in documents.items()
                    if wanted & bit and guest is not None
                }
            rest = flags & ~(LIVE | CONFIG)
            if len(set(texts.values())) == 1:
                parts = [(wanted, next(iter(texts.values())))]
            else:
                parts = list(texts.items())
            for bits, text in parts:
                self._changed(
                    bits | rest,
                    partial(self._raw.updateDeviceFlags, text),
                    lambda guest: define(replaced(guest, xml), self._connection._site, guest),
                )
            return 0

    # -- what they share -------------------------------------------------------------------------------------------

    def _changed(self, flags: int, call: Any, definition: Any) -> int:
        """Ask libvirt's driver; where it can not change the stored definition, define that anew.

        ``call`` does it with flags; ``definition`` makes the new definition of the stored one.
        """
        with self._connection._lock:
            wanted = self._resolved(flags)
            rest = flags & ~(LIVE | CONFIG)
            if not self._is_ours() or not (self._redefines and wanted & CONFIG):
                try:
                    return int(call(flags))
                except libvirt.libvirtError as problem:
                    if not self._is_ours() or not wanted & CONFIG or not is_unable(problem):
                        raise
            with libvirt_errors():
                stored, live = self._connection._documents_of(self._raw)
                self._check_state(wanted, stored, live)
                _require_known(rest)
                assert stored is not None
                new = definition(stored)
            if wanted & LIVE:
                call(LIVE | rest)
            self._redefine(new)
            return 0

    def _redefine(self, guest: Guest) -> None:
        """Store a definition that was made of the stored one."""
        self._connection._raw.defineXML(whole(guest))

    @property
    def _redefines(self) -> bool:
        """The driver is known to have no way to change a stored definition but to define it anew."""
        return self._connection._site.is_test

    def _is_ours(self) -> bool:
        return self._connection._site.is_ours

    def _resolved(self, flags: int) -> int:
        """Which documents are meant: by default that of the moment."""
        wanted = flags & (LIVE | CONFIG)
        return wanted or (LIVE if self._raw.isActive() else CONFIG)

    def _check_state(self, wanted: int, stored: Guest | None, live: Guest | None) -> None:
        if wanted & LIVE and live is None:
            raise ConfigError(
                "Requested operation is not valid: domain is not running",
                hint="VIR_DOMAIN_AFFECT_CONFIG changes the stored definition",
            )
        if wanted & CONFIG and stored is None:
            raise ConfigError(
                "Requested operation is not valid: transient domains do not have any persistent config",
                hint="VIR_DOMAIN_AFFECT_LIVE changes the running guest",
            )

    def connect(self) -> Connection:
        return self._connection

    def __getattr__(self, name: str) -> Any:
        from qemushim.driver.connection import passed_through

        if name in ("_connection", "_raw"):
            raise AttributeError(name)  # of an object that is only half made, by copy or pickle
        return passed_through(self._connection, getattr(self._raw, name))

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._raw)})

    def __repr__(self) -> str:
        return f"<qemushim domain {self._raw.name()!r}>"


def _require_known(rest: int) -> None:
    """Refuse flags that libvirt would refuse, where it is not the one that sees them."""
    with libvirt_errors():
        if unknown := rest & ~_MODIFIERS:
            raise ConfigError(f"unsupported flags ({unknown:#x})", hint="VIR_DOMAIN_AFFECT_LIVE, …_CONFIG")


def _completed(xml: str, guest: Guest) -> str:
    """The XML with the address of the device that it changes; as it is where that can not be told."""
    try:
        return completed(xml, guest)[0]
    except ConfigError:
        return xml
