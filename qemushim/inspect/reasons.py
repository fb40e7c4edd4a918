"""Why a definition has what its document does not name.  https://libvirt.org/formatdomain.html"""

from __future__ import annotations

from qemushim.document.node import Node

#: what QEMU is always told, whatever the document says
ALWAYS = "libvirt always says so"

_CONTROLLERS = {
    "ccid": "a smartcard needs a reader",
    "fdc": "a floppy disk needs its controller",
    "ide": "a disk on the IDE bus needs it, or the board has it built in",
    "pci": "the devices need so many PCI slots, and a new definition keeps one free",
    "sata": "the board has it built in, or a disk on the SATA bus needs it",
    "scsi": "a device on the SCSI bus needs it",
    "usb": "the board has USB unless <controller type='usb' model='none'/> declines it",
    "virtio-serial": "a channel or console needs its port",
}
_ROOTS = "the root bus of the board"
#: tag → why such a device is added
_DEVICES = {
    "audio": "sound and graphics need a host end, which is silent where none is named",
    "console": "a serial port is also the guest's console",
    "hub": "the USB devices need more ports",
    "input": "graphics need a pointer and a keyboard",
    "iommu": "so many vCPUs need it for their interrupts",
    "memballoon": "a guest has a memory balloon unless <memballoon model='none'/> declines it",
    "panic": "the board can tell of a panic",
    "serial": "a console is a serial port too",
    "video": "graphics need a card",
    "watchdog": "the board's chipset has this watchdog",
}
#: elements beside the devices → what holds where the document is silent
_SILENT = {
    "clock": "without <clock> the guest's clock has UTC",
    "loader": "<os> asks for firmware and leaves open which",
    "source": "<os> asks for firmware and leaves open which file",
    "cpu": "without <cpu> the guest gets the machine's default model",
    "os": "no <boot> and no <boot order=> say otherwise",
    "uuid": "a guest without an identity is given one",
    "vcpu": "without <vcpu> the guest has one",
}


def why_added(node: Node) -> str:
    """Why an element is there that the document does not have; ``""`` where that is not known."""
    if node.tag == "controller":
        if (node.get("model") or "").endswith("-root"):
            return _ROOTS
        return _CONTROLLERS.get(node.get("type") or "", "")
    return _DEVICES.get(node.tag) or _SILENT.get(node.tag, "")
