"""Golden cases: ``golden/NAME.xml`` steers itself by ``key: value`` lines in its first comment.

========  ================================================================================================
title     what the case shows (required)
qemu      emulators, by the names that ``--qemu`` takes (required)
existing  ``yes``: the guest exists, no newer defaults are taken
incoming  where it migrates in from
attach    devices to plug in, one after the other: names of ``golden/NAME.attach/DEVICE.xml``
detach    devices to unplug before that, by target, MAC or alias
host      what the host has beyond the nominal one: a name of ``HOSTS``
show      which results are kept: ``args xml`` (default), or one of them
========  ================================================================================================

Results are ``NAME.EMULATOR.args`` (the command line as a shell takes it), ``NAME.EMULATOR.xml`` (the definition), or
``NAME.EMULATOR.err`` where the case is refused: message with line, and hint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemushim.command.layout import shell
from qemushim.emulator.bundled import find
from qemushim.errors import ShimError
from qemushim.guest import Guest
from qemushim.host import Host, NumaNode, QemuConf

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
KEYS = {"title", "qemu", "existing", "incoming", "attach", "detach", "host", "show"}

_GPU = {
    "type": "gpu",
    "binary": "/usr/libexec/vhost-user-gpu",
    "tags": [],
    "features": ["render-node", "virgl"],
}
_POOL = {"type": "block", "path": "/dev/sdq", "pool_type": "iscsi", "device": "iqn.2019-05.org.example:store",
         "hosts": [{"name": "store2.example.org", "port": "3260"}]}  # fmt: skip
#: what a case may say of its host → what that changes
HOSTS: dict[str, dict[str, Any]] = {
    "": {},
    "descriptors": {"fd_groups": {"images": ((40,), True)}},
    "nbdkit": {"nbdkit": frozenset({"curl", "ssh"}), "config": QemuConf(storage_use_nbdkit=True)},
    "pools": {"find_volume": lambda pool, name: _POOL},
    "spice-tls": {"config": QemuConf(spice_tls=True)},
    "two-nodes": {
        "numa": (NumaNode(0, frozenset({0, 1})), NumaNode(1, frozenset({2, 3}))),
        "auto_nodeset": (0,),
    },
    "vhost-user-gpu": {"vhost_user": (("50-gpu.json", _GPU),)},
}


@dataclass(frozen=True)
class Golden:
    """One document and one emulator."""

    path: Path
    header: tuple[tuple[str, str], ...]
    emulator: str

    @property
    def id(self) -> str:
        return f"{self.path.stem}.{self.emulator}"

    def get(self, key: str, default: str = "") -> str:
        return dict(self.header).get(key, default)

    def file(self, kind: str) -> Path:
        return GOLDEN / f"{self.id}.{kind}"

    def results(self) -> dict[str, str]:
        """Kind of file → its content."""
        emulator = find(self.emulator, self.arch)
        host = self.host(emulator.arch)
        show = self.get("show", "args xml").split()
        try:
            guest = Guest.from_xml(self.path.read_bytes(), file=self.path.name)
            guest = guest.define(emulator, host, update=self.get("existing") != "yes")
            for name in self.get("detach").split():
                guest = guest.detach(name)
            for name in self.get("attach").split():
                device = GOLDEN / f"{self.path.stem}.attach" / f"{name}.xml"
                guest = guest.attach(device.read_bytes(), emulator, host, file=device.name)
            out = {"xml": guest.to_xml()} if "xml" in show else {}
            if "args" in show:
                command = guest.command(emulator, host, update=False, incoming=self.get("incoming"))
                out["args"] = shell(command)
        except ShimError as refused:
            hint = f"hint: {refused.hint}\n" if refused.hint else ""
            return {"err": f"{refused.where}{refused.message}\n{hint}"}
        return out

    def host(self, arch: str) -> Host:
        return Host.nominal(arch)._replace(**HOSTS[self.get("host")])

    @property
    def arch(self) -> str:
        return Guest.from_xml(self.path.read_bytes()).domain.arch or "x86_64" if self.parses else "x86_64"

    @property
    def parses(self) -> bool:
        try:
            Guest.from_xml(self.path.read_bytes())
        except ShimError:
            return False
        return True


def read_header(path: Path) -> dict[str, str]:
    """The ``key: value`` lines of the first comment; a line that begins with blanks and no key goes on."""
    text = path.read_text(errors="replace")
    start, end = text.find("<!--"), text.find("-->")
    assert 0 <= start < end, f"{path.name} has no header comment"
    header: dict[str, str] = {}
    key = ""
    for line in text[start + 4 : end].splitlines():
        name, colon, value = line.strip().partition(":")
        if colon and name in KEYS:
            key = name
            header[key] = value.strip()
        elif key and line.strip():
            header[key] += " " + line.strip()
    assert {"title", "qemu"} <= set(header), f"{path.name} names no title or no qemu"
    return header


def cases() -> list[Golden]:
    found = []
    for path in sorted(GOLDEN.glob("*.xml")):
        if path.stem.count("."):
            continue  # a result
        header = read_header(path)
        found += [Golden(path, tuple(header.items()), emulator) for emulator in header["qemu"].split()]
    return found
