"""Small documents and emulators of the classic years, for the tests of the classic way."""

from __future__ import annotations

from qemushim.emulator.model import Accelerator, Emulator, Machine
from qemushim.guest import Guest
from qemushim.host import ClassicHost, Descriptors, Host, Hugepages, QemuConf

#: what every QEMU of the time can do
ALWAYS = ("vnc-colon", "no-reboot")
LEGACY = (*ALWAYS, "drive", "name", "uuid", "vga", "vga-none", "0-10")
DEVICE = (*LEGACY, "device", "chardev", "rtc")

HOST = Host(
    arch="x86_64",
    classic=ClassicHost(monitor="/run/m"),
    config=QemuConf(vnc_listen=""),
    environment={"PATH": "/bin", "HOME": "/root"},
    hugepages=(Hugepages(2048, "/dev/hugepages", True),),
    descriptors=Descriptors(tap=50, vhost_net=70),
)
LETTER = HOST._replace(classic=ClassicHost(monitor="/run/m", to_the_letter=True))

DISK = "<disk type='file'><source file='{path}'/><target dev='{dev}'/></disk>"
NIC = "<interface type='user'><mac address='52:54:00:00:00:{mac:02x}'/><model type='{model}'/></interface>"
PCI = "<address type='pci' slot='{slot}'/>"


def emulator(*flags: str, version: tuple[int, int, int] = (0, 12, 0), fork: bool = False) -> Emulator:
    """A binary with these capabilities; it knows ``pc`` (an alias of ``pc-0.12``) and ``isapc``."""
    machines = (Machine("pc-0.12", alias="pc", is_default=True), Machine("isapc"))
    return Emulator(
        arch="x86_64",
        version=version,
        flags=frozenset(flags or ALWAYS),
        classic=True,
        is_kvm_fork=fork,
        accelerators=(Accelerator("kvm", machines), Accelerator("tcg", machines)),
    )


def document(devices: str = "", more: str = "", *, virt: str = "qemu", os: str = "") -> str:
    """A domain with the devices, and with elements that come before them."""
    os = os or "<os><type arch='x86_64' machine='pc'>hvm</type></os>"
    return f"""<domain type='{virt}'>
  <name>old</name>
  <uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid>
  <memory>262144</memory>
  {os}{more}
  <devices><emulator>/usr/bin/qemu</emulator>{devices}</devices>
</domain>"""


def define(text: str, binary: Emulator | None = None, host: Host = HOST) -> Guest:
    return Guest.from_xml(text).define(binary or emulator(), host)


def argv(text: str, binary: Emulator | None = None, host: Host = HOST, incoming: str = "") -> str:
    """The command line without its environment, joined by blanks."""
    return " ".join(Guest.from_xml(text).command(binary or emulator(), host, incoming=incoming).argv)
