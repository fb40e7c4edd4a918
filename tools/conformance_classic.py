"""Cases of the classic corpus: libvirt 0.8.0's documents for QEMU 0.9 – 0.12, with named capabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qemushim.document.node import Node
from qemushim.document.parse import parse
from qemushim.emulator.model import Accelerator, Emulator, Machine
from qemushim.errors import ShimError
from qemushim.guest import Guest
from qemushim.host import ClassicHost, Host, Hugepages, QemuConf

#: a machine type is a name, or a pair of alias and name
MachineNames = tuple[str | tuple[str, str], ...]
#: what the host of the cases offers: (os type, arch) → machine types by domain type, ``""`` for the rest
_GUESTS: dict[tuple[str, str], dict[str, MachineNames]] = {
    ("hvm", "i686"): {"": ("pc", "isapc")},
    ("hvm", "x86_64"): {"": ("pc-0.11", ("pc", "pc-0.11"), "pc-0.10", "isapc"), "kvm": ("pc", "isapc")},
    ("xen", "x86_64"): {"": ("xenner",)},
}
#: emulator → the machine types that it is asked about, where a name may be an alias
_EMULATORS = {
    "/usr/bin/qemu": _GUESTS["hvm", "i686"][""],
    "/usr/bin/qemu-system-x86_64": _GUESTS["hvm", "x86_64"][""],
    "/usr/bin/kvm": _GUESTS["hvm", "x86_64"]["kvm"],
    "/usr/bin/xenner": _GUESTS["xen", "x86_64"][""],
}
_ENVIRONMENT = {"PATH": "/bin", "HOME": "/home/test", "USER": "test", "LOGNAME": "test"}
_MONITOR = "/tmp/test-monitor"


def _machines(root: Node, resolve: bool) -> tuple[Machine, ...]:
    """What the emulator of the document has; the default of the guest's kind comes first.

    ``resolve``: which names are aliases is known, as it is only before a start.
    """
    kind = root.value("os/type") or ("xen" if root.child("bootloader") is not None else "hvm")
    guest = _GUESTS.get((kind, root.value("os/type/@arch") or ""), {})
    default = guest.get(root.get("type") or "", guest.get("", ()))[:1]
    names = _EMULATORS.get(root.value("devices/emulator") or "", ())
    aliases = {n[1]: n[0] for n in names if not isinstance(n, str)} if resolve else {}
    plain = dict.fromkeys(n if isinstance(n, str) else n[resolve] for n in (*default, *names))
    return tuple(Machine(name, alias=aliases.get(name, "")) for name in plain)


def _emulator(case: dict[str, Any], root: Node) -> Emulator:
    machines = _machines(root, case["expect"] != "define")
    return Emulator(
        arch=root.value("os/type/@arch") or "x86_64",
        version=(0, 12, 0),
        flags=frozenset(case["capabilities"]),
        classic=True,
        accelerators=(Accelerator("kvm", machines), Accelerator("tcg", machines)),
    )


def _host(case: dict[str, Any]) -> Host:
    driver = {key: value for key, value in case.get("driver", {}).items() if value is not None}
    return Host(
        arch="x86_64",
        privileged=False,
        config=QemuConf(**{"vnc_listen": "", **driver}),
        classic=ClassicHost(monitor=_MONITOR, to_the_letter=True),
        environment=_ENVIRONMENT,
        hugepages=(Hugepages(2048, "/dev/hugepages", True),),
        domain_id=case.get("vm_id", -1),
        # what is chosen at the start is not chosen here
        vnc_port=0,
    )


class Runner:
    """Runs one case after the other: what a case does not say is the same for all."""

    def __init__(self, corpus: Path) -> None:
        self.corpus = corpus

    def run(self, case: dict[str, Any]) -> dict[str, Any]:
        """The definition, and for a case that starts the command line of it."""
        try:
            # not from_xml: a document of 2010 is held against the rules of 2010, which define does
            guest = Guest(parse((self.corpus / case["xml"]).read_bytes()))
            emulator, host = _emulator(case, guest.domain.node), _host(case)
            defined = guest.define(emulator, host)
            result: dict[str, Any] = {"xml": defined.to_xml()}
            if case["expect"] != "define":
                command = defined.command(emulator, host, incoming=case.get("migrate_from") or "")
                result["argv"] = command.tokens
                result["text"] = " ".join(command.tokens)
            return result
        except ShimError as refused:
            return {"error": refused.message}
