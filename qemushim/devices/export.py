"""What ``virsh domxml-to-native`` shows otherwise than a start: libvirt prepares nothing on the host for it.

Every network back end becomes a tap device of the type ``ethernet``, the TPM emulator that is not there a null one.
https://libvirt.org/manpages/virsh.html#domxml-to-native
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qemushim.machine.domain import Domain

#: what is left of an interface
_KEPT = ("mac", "model")


def export_interfaces(domain: Domain) -> bool:
    """Turn every interface into a tap device that keeps its card and its MAC, and is to be given a place anew.

    Returns whether there was one.
    """
    found = [
        interface.node for interface in domain.lists["interface"] if interface.node.get("type") != "hostdev"
    ]
    for node in found:
        node.attrib = {"type": "ethernet"}
        node.children = [child for child in node.children if child.tag in _KEPT]
    return bool(found)
