"""Whether the guest's memory is shared with other processes, which vhost-user back ends need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.document.node import Node
    from qemushim.machine.domain import Domain


def has_shared_memory(domain: Domain) -> bool:
    """Whether every part of the guest's memory is shared.

    https://libvirt.org/formatdomain.html#memory-backing: a NUMA cell may differ from ``<access mode=>``.
    """
    default = domain.node.value("memoryBacking/access/@mode") or "private"
    numa = domain.node.find("cpu/numa")
    cells = numa.all("cell") if numa is not None else []
    if not cells:
        return default == "shared"
    return all((cell.get("memAccess") or default) == "shared" for cell in cells)


def require_shared_memory(user: str, domain: Domain, node: Node) -> None:
    """Raise ``ConfigError`` unless the guest's memory is shared; ``user`` is who needs it."""
    if not has_shared_memory(domain):
        raise error.unsupported(
            f"'{user}' requires shared memory",
            node,
            "add <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
        )
