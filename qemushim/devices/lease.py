"""``<lease>``: a lock that the guest holds while it runs.  QEMU is told nothing of it.

https://libvirt.org/formatdomain.html#device-leases
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.devices.base import Device
from qemushim.document.fields import Long, Text
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Define


class Lease(Device):
    """A lease: ``offset`` is bytes into the file."""

    tag = "lease"
    lockspace = Text("lockspace")
    key = Text("key")
    path = Text("target/@path")
    offset = Long("target/@offset")

    def complete(self, d: Define) -> None:
        if not self.key:
            raise error.xml("Missing 'key' element for lease", self.node, "<key>…</key>")
        if not self.path:
            raise error.xml("Missing 'target' element for lease", self.node, "<target path='/path'/>")
        if self.offset == 0:
            self.offset = None
