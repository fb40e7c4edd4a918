"""Limits on throughput: of one disk (``<iotune>``) and of a group of disks (``<throttlegroup>``).

Bytes and requests a second; lengths of bursts are seconds.
https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
"""

from __future__ import annotations

from qemushim.devices.storage import Positive
from qemushim.document.fields import Text
from qemushim.document.item import Item
from qemushim.document.node import Node
from qemushim.errors import ConfigError, error

#: what may be limited: element → QEMU's name of it
RATES = {
    "total_bytes_sec": "bps-total",
    "read_bytes_sec": "bps-read",
    "write_bytes_sec": "bps-write",
    "total_iops_sec": "iops-total",
    "read_iops_sec": "iops-read",
    "write_iops_sec": "iops-write",
    "total_bytes_sec_max": "bps-total-max",
    "read_bytes_sec_max": "bps-read-max",
    "write_bytes_sec_max": "bps-write-max",
    "total_iops_sec_max": "iops-total-max",
    "read_iops_sec_max": "iops-read-max",
    "write_iops_sec_max": "iops-write-max",
    "size_iops_sec": "iops-size",
}
#: how long a burst above the rate may last, in seconds
LENGTHS = {
    "total_bytes_sec_max_length": "bps-total-max-length",
    "read_bytes_sec_max_length": "bps-read-max-length",
    "write_bytes_sec_max_length": "bps-write-max-length",
    "total_iops_sec_max_length": "iops-total-max-length",
    "read_iops_sec_max_length": "iops-read-max-length",
    "write_iops_sec_max_length": "iops-write-max-length",
}
#: QEMU's own ceiling of any limit
HIGHEST = 1_000_000_000_000_000


class Limit(Positive):
    """One limit; 0 is none."""

    #: what is limited, in libvirt's words
    whole = "disk iotune"

    def wrong(self, raw: str, place: Node) -> ConfigError:
        return error.xml(f"{self.whole} field '{place.tag}' must be an integer", place, "a number from 0")


class Limits(Item):
    """``<iotune>``, and ``<throttlegroup>``."""

    total_bytes_sec = Limit("total_bytes_sec")
    read_bytes_sec = Limit("read_bytes_sec")
    write_bytes_sec = Limit("write_bytes_sec")
    total_iops_sec = Limit("total_iops_sec")
    read_iops_sec = Limit("read_iops_sec")
    write_iops_sec = Limit("write_iops_sec")
    total_bytes_sec_max = Limit("total_bytes_sec_max")
    read_bytes_sec_max = Limit("read_bytes_sec_max")
    write_bytes_sec_max = Limit("write_bytes_sec_max")
    total_iops_sec_max = Limit("total_iops_sec_max")
    read_iops_sec_max = Limit("read_iops_sec_max")
    write_iops_sec_max = Limit("write_iops_sec_max")
    size_iops_sec = Limit("size_iops_sec")
    group_name = Text("group_name")
    total_bytes_sec_max_length = Limit("total_bytes_sec_max_length")
    read_bytes_sec_max_length = Limit("read_bytes_sec_max_length")
    write_bytes_sec_max_length = Limit("write_bytes_sec_max_length")
    total_iops_sec_max_length = Limit("total_iops_sec_max_length")
    read_iops_sec_max_length = Limit("read_iops_sec_max_length")
    write_iops_sec_max_length = Limit("write_iops_sec_max_length")

    def values(self) -> dict[str, int]:
        """What is set: element → number."""
        found = ((name, getattr(self, name)) for name in (*RATES, *LENGTHS))
        return {name: value for name, value in found if value}

    def qemu(self) -> dict[str, int]:
        """QEMU's ``ThrottleLimits``: every rate, and the lengths that are set."""
        values = self.values()
        limits = {name: values.get(element, 0) for element, name in RATES.items()}
        limits.update({name: values[element] for element, name in LENGTHS.items() if element in values})
        return limits

    def check(self) -> None:
        """Raise ``ConfigError`` where limits contradict each other or are beyond what QEMU takes."""
        values = self.values()
        for what in ("bytes_sec", "iops_sec", "bytes_sec_max", "iops_sec_max"):
            if f"total_{what}" in values and (f"read_{what}" in values or f"write_{what}" in values):
                raise error.xml(
                    f"total and read/write {what} cannot be set at the same time",
                    self.node,
                    "limit the total, or reads and writes each",
                )
        for name, value in values.items():
            if value > HIGHEST:
                raise error.unsupported(
                    f"block I/O throttle limit must be no more than {HIGHEST} using QEMU",
                    self.node.child(name),
                    "a lower limit",
                )
