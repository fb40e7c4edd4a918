"""``<tpm>``: a trusted platform module.  https://libvirt.org/formatdomain.html#tpm-device"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option
from qemushim.devices.base import Device
from qemushim.devices.charsource import TYPES, socket_chardev
from qemushim.devices.placement import address_properties
from qemushim.document.fields import Choice, One, Present, Switch, Text, Unsigned
from qemushim.document.item import Item
from qemushim.document.units import canonical_uuid
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define

MODELS = ("tpm-tis", "tpm-crb", "tpm-spapr", "spapr-tpm-proxy")
#: a device of the host that guests talk to besides a TPM of their own
PROXY = "spapr-tpm-proxy"
DEFAULT_DEVICE = "/dev/tpm0"
#: all TPMs but proxies share one back end's name: a guest has one
CHARDEV = "chrtpm"
BANKS = ("sha1", "sha256", "sha384", "sha512")
#: back end → its children that are kept
_CHILDREN = {
    "emulator": ("encryption", "active_pcr_banks", "source", "profile"),
    "external": ("source",),
    "passthrough": ("device",),
}
_ATTRIBUTES = {
    "emulator": ("type", "version", "persistent_state", "debug"),
    "external": ("type",),
    "passthrough": ("type",),
}


class TpmBackend(Item):
    """``<backend>``: swtpm (``emulator``), a socket that one listens on (``external``), or a chip."""

    tag = "backend"

    type = Choice("@type", tuple(_CHILDREN), required=True)
    version = Choice("@version", ("1.2", "2.0"))
    persistent_state = Switch("@persistent_state").says(
        "Invalid persistent_state value, either 'yes' or 'no'", "internal error"
    )
    debug = Unsigned("@debug")
    encryption = Text("encryption/@secret")
    banks = Present("active_pcr_banks")
    sha1 = Present("active_pcr_banks/sha1")
    sha256 = Present("active_pcr_banks/sha256")
    sha384 = Present("active_pcr_banks/sha384")
    sha512 = Present("active_pcr_banks/sha512")
    source_type = Text("source/@type")
    source_mode = Choice("source/@mode", ("connect", "bind"))
    source_path = Text("source/@path")
    profile_source = Text("profile/@source")
    profile_remove_disabled = Choice("profile/@removeDisabled", ("check", "fips-host"))
    profile_name = Text("profile/@name")
    device = Text("device/@path")


class Tpm(Device):
    """``<tpm>``"""

    tag = "tpm"

    model = Choice("@model", MODELS)
    backend = One("backend", TpmBackend)

    __slots__ = ()

    @property
    def is_proxy(self) -> bool:
        return self.model == PROXY

    def check_document(self, d: Define) -> None:
        backend = self.backend
        if backend is None:
            raise error.xml("missing TPM device backend", self.node, "add <backend type='emulator'/>")
        if len(self.node.all("backend")) > 1:
            raise error.xml("only one TPM backend is supported", self.node, "keep one <backend>")
        if backend.type == "external":
            _check_external(backend)
        elif backend.type == "emulator":
            _check_emulator(backend)

    def complete(self, d: Define) -> None:
        backend = TpmBackend(self.node.ensure("backend"))
        if self.model is None:
            self.model = "tpm-spapr" if d.board.is_ppc64 else "tpm-tis"
        kind = backend.type or ""
        node = backend.node
        node.attrib = {name: value for name, value in node.attrib.items() if name in _ATTRIBUTES[kind]}
        node.children = [child for child in node.children if child.tag in _CHILDREN[kind]]
        if kind == "emulator":
            self._complete_emulator(backend, d)
        if kind == "passthrough" and backend.device is None:
            backend.device = DEFAULT_DEVICE
        if kind == "external":
            backend.source_mode = "connect"

    def _complete_emulator(self, backend: TpmBackend, d: Define) -> None:
        backend.persistent_state = backend.persistent_state or None
        node = backend.node
        if backend.version is None:
            backend.version = "1.2" if self.model == "tpm-tis" and d.board.is_x86 else "2.0"
        banks, state = node.child("active_pcr_banks"), node.child("source")
        if banks is not None and not any(banks.child(bank) is not None for bank in BANKS):
            node.remove(banks)
        if state is not None:
            state.drop("mode")

    def check(self, d: Define) -> None:
        backend = TpmBackend(self.node.ensure("backend"))
        self._check_number(d)
        self._check_version(backend, d)
        # an external emulator speaks the emulator's protocol
        kind = "passthrough" if backend.type == "passthrough" else "emulator"
        emulator = d.emulator
        if not self.is_proxy and kind not in emulator.tpm_types:
            raise error.unsupported(
                f"The QEMU executable {emulator.binary} does not support TPM backend type {backend.type}",
                self.node,
                "another type of <backend>",
            )
        known = emulator.tpm_models | emulator.types
        if self.model not in known and self.driver(d.board.is_x86) not in known:
            raise error.unsupported(
                f"The QEMU executable {emulator.binary} does not support TPM model {self.model}",
                self.node,
                "another model=",
            )

    def _check_number(self, d: Define) -> None:
        alike = [tpm for tpm in d.domain.all(Tpm) if tpm.is_proxy == self.is_proxy]
        if len(alike) > 1:
            kind = "TPM Proxy" if self.is_proxy else "TPM non-proxy"
            raise error.unsupported(f"only a single {kind} device is supported", alike[1].node, "remove one")

    def _check_version(self, backend: TpmBackend, d: Define) -> None:
        if backend.type != "emulator":
            return
        version = backend.version
        if version == "1.2":
            if backend.banks:
                message = "<active_pcr_banks/> requires TPM version '2.0'"
                raise error.xml(message, self.node, "version='2.0'")
            if self.model == "tpm-crb":
                raise error.unsupported(
                    "TPM 1.2 is not supported for CRB interface", self.node, "version='2.0'"
                )
            if self.model == "tpm-spapr":
                raise error.unsupported(
                    "TPM 1.2 is not supported for SPAPR interface", self.node, "version='2.0'"
                )
            if d.board.is_arm:
                raise error.unsupported(
                    f"TPM 1.2 is not supported on architecture '{d.board.arch}'", self.node, "version='2.0'"
                )
        known = d.host.tpm_versions
        if known is not None and version not in known:
            raise error.unsupported(
                f"TPM version '{version}' is not supported", self.node, "ask the host's swtpm"
            )

    def driver(self, x86: bool) -> str:
        """The QEMU device; the plain name is that of an ISA card."""
        return "tpm-tis-device" if self.model == "tpm-tis" and not x86 else self.model or ""

    def options(self, b: Build) -> Iterator[Option]:
        backend = TpmBackend(self.node.ensure("backend"))
        if self.is_proxy:
            proxy = {"driver": PROXY, "id": self.alias, "host-path": backend.device}
            yield b.device(proxy, self.node, "a TPM of the host, for guests in guests")
            return
        back = f"tpm-{self.alias}"
        if backend.type == "passthrough":
            yield from self._passthrough(backend, back, b)
        else:
            path = backend.source_path if backend.type == "external" else emulator_socket(b)
            if b.export and backend.type == "emulator":
                yield b.pairs(
                    "-chardev", "null", {"id": CHARDEV}, self.node, "no TPM emulator runs for a dry run"
                )
            else:
                yield socket_chardev(b, CHARDEV, path or "", self.node)
            yield b.pairs(
                "-tpmdev", "emulator", {"id": back, "chardev": CHARDEV}, self.node, "a TPM emulator"
            )
        yield b.device(
            {
                "driver": self.driver(b.board.is_x86),
                "tpmdev": back,
                "id": self.alias,
                **address_properties(self, b),
            },
            self.node,
            "a trusted platform module",
        )

    def _passthrough(self, backend: TpmBackend, back: str, b: Build) -> Iterator[Option]:
        """The chip and the file that cancels its work are opened for QEMU."""
        path = backend.device or DEFAULT_DEVICE
        if "/" not in path:
            message = f"TPM device path {path} is invalid"
            raise error.internal(message, self.node, f"<device path='{DEFAULT_DEVICE}'/>")
        cancel = f"/sys/class/misc/{path.rpartition('/')[2]}/device/cancel"
        if b.alone:
            names = {"id": back, "path": path, "cancel-path": cancel}
            yield b.pairs("-tpmdev", "passthrough", names, self.node, "the host's TPM")
            return
        numbers = b.host.descriptors
        sets = []
        for part, number, file in (("tpm", numbers.tpm, path), ("cancel", numbers.tpm_cancel, cancel)):
            given = b.pass_fd(number, "tpm", file, self.alias)
            sets.append(b.new_fd_set())
            yield b.add_fd(sets[-1], given, f"{self.alias}-{part}", self.node)
        names = {"id": back, "path": f"/dev/fdset/{sets[0]}", "cancel-path": f"/dev/fdset/{sets[1]}"}
        yield b.pairs("-tpmdev", "passthrough", names, self.node, "the host's TPM")


def _check_external(backend: TpmBackend) -> None:
    kind = backend.source_type
    if not kind:
        raise error.xml("missing external TPM backend source type", backend.node, "<source type='unix' …>")
    if kind not in TYPES:
        message = f"unknown backend source type '{kind}' for external TPM"
        raise error.unsupported(message, backend.node, "type='unix'")
    if kind != "unix":
        message = "only source type 'unix' is supported for external TPM device"
        raise error.xml(message, backend.node, "type='unix'")
    if backend.source_mode == "bind":
        raise error.xml(
            "only 'connect' mode is supported for external TPM device", backend.node, "mode='connect'"
        )
    if backend.source_path is None:
        message = "missing socket path for external TPM device"
        raise error.xml(message, backend.node, "path='/run/swtpm.sock'")


def _check_emulator(backend: TpmBackend) -> None:
    if backend.encryption is not None:
        uuid = canonical_uuid(backend.encryption)
        if uuid is None:
            message = f"Unable to parse secret uuid '{backend.encryption}'"
            raise error.internal(message, backend.node, "the UUID of a secret of the host")
        backend.encryption = uuid
    state = backend.node.child("source")
    if state is not None:
        if backend.source_type not in ("file", "dir"):
            message = f"Invalid value for attribute 'type' in element 'source': '{backend.source_type}'."
            if backend.source_type is None:
                message = "Missing required attribute 'type' in element 'source'"
            raise error.xml(message, state, "one of: file, dir")
        if backend.source_path is None:
            raise error.xml("missing TPM source path", state, "path='/var/lib/swtpm/guest'")


def emulator_socket(b: Build) -> str:
    """Where the guest's swtpm listens."""
    return b.host.tpm_socket or f"{b.host.paths.run}/swtpm/{b.short_name}-swtpm.sock"
