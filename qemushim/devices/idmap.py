"""``<uid>`` and ``<gid>`` of an ``<idmap>``.  https://libvirt.org/formatdomain.html#container-boot"""

from __future__ import annotations

from qemushim.document.fields import Unsigned
from qemushim.document.item import Item

_WRONG_RANGE = "invalid idmap start/target/count settings"


class _Id(Unsigned[int]):
    """One number of a range, without which it is none."""

    def __init__(self, path: str) -> None:
        super().__init__(path, 0)
        self.says(_WRONG_RANGE, "XML error").needs(_WRONG_RANGE)


class IdRange(Item):
    """``<uid>`` or ``<gid>``: a range of ids of the guest and where it begins on the host."""

    start = _Id("@start")
    target = _Id("@target")
    count = _Id("@count")
