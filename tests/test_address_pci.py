"""Where PCI devices sit: chipset places, the user's places, the order of the rest, buses that are added."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemushim.address.needs import PCI, Kind, Need
from qemushim.address.pci import BUS_KINDS, Abilities, PciTree
from qemushim.address.pcilayout import PciLayout
from qemushim.devices.address import PciAddress
from qemushim.document.parse import parse
from qemushim.emulator.model import Emulator
from qemushim.errors import AddressError, ConfigError
from qemushim.guest import Guest
from qemushim.host import Host, PciDevice
from tests.small_guests import ARM, LATEST, PSERIES, S390, document, refusal, stored

NO_EXTRAS = "<controller type='usb' model='none'/><memballoon model='none'/>"
PCIE = Need(Kind.PCIE)


def bus(index: int, model: str, inside: str = "") -> str:
    return f"<controller type='pci' index='{index}' model='{model}'>{inside}</controller>"


def nic(model: str = "virtio", inside: str = "") -> str:
    card = f"<mac address='52:54:00:01:02:03'/><model type='{model}'/>"
    return f"<interface type='user'>{card}{inside}</interface>"


def at(bus_number: int, slot: int, function: int = 0, more: str = "") -> str:
    place = f"bus='{bus_number:#x}' slot='{slot:#x}' function='{function:#x}'"
    return f"<address type='pci' domain='0' {place}>{more}</address>"


def places(
    devices: str, emulator: Emulator = LATEST, machine: str = "", host: Host | None = None
) -> dict[str, str]:
    """``tag[ type][ index]`` → ``bus:slot.function`` of every PCI device; twins get a ``'``."""
    text = document(devices, emulator.arch, machine=machine)
    guest = Guest.from_xml(text).define(emulator, host or Host.nominal(emulator.arch))
    found: dict[str, str] = {}
    for device in guest.domain.every():
        address = device.address
        if address is None or address.type != "pci":
            continue
        node = device.node
        name = " ".join(part for part in (device.tag, node.get("type"), node.get("index")) if part)
        while name in found:
            name += "'"
        found[name] = f"{address.bus:02x}:{address.slot:02x}.{address.function}"
    return found


def models(devices: str, emulator: Emulator = LATEST, machine: str = "") -> list[str]:
    """The PCI controllers in order."""
    return re.findall(
        r"<controller type='pci' index='\d+' model='([^']+)'", stored(devices, emulator, "", machine)
    )


# -- the chipset -------------------------------------------------------------------------------------------


def test_i440fx_keeps_slot_1_for_itself() -> None:
    disk = "<disk type='file'><source file='/a'/><target dev='hda' bus='ide'/></disk>"
    found = places(disk + "<controller type='usb'/><video><model type='vga'/></video>" + nic())
    assert found["controller ide 0"] == "00:01.1"
    assert found["controller usb 0"] == "00:01.2"
    assert found["video"] == "00:02.0"
    assert found["interface user"] == "00:03.0"
    assert found["memballoon"] == "00:04.0"


def test_without_video_its_slot_goes_to_the_next_device() -> None:
    assert places(NO_EXTRAS + nic())["interface user"] == "00:02.0"


def test_video_moves_on_where_its_slot_is_taken() -> None:
    found = places("<video><model type='vga'/></video>" + nic(inside=at(0, 2)))
    assert found["interface user"] == "00:02.0"
    assert found["video"] == "00:03.0"


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (
            "<controller type='ide' index='0'>" + at(0, 5) + "</controller>",
            "Primary IDE controller must have PCI address",
        ),
        (
            "<controller type='usb' model='piix3-uhci'>" + at(0, 5) + "</controller>",
            "PIIX3 USB controller at index 0 must have PCI address 0:0:1.2",
        ),
    ],
)
def test_piix_functions_can_not_be_moved(devices: str, message: str) -> None:
    assert message in refusal(devices)


def test_q35_has_places_at_the_end_of_bus_0() -> None:
    found = places("<sound model='ich9'/><video><model type='vga'/></video>", machine="q35")
    assert found["controller sata 0"] == "00:1f.2"
    assert found["sound"] == "00:1b.0"
    assert found["video"] == "00:01.0"
    wrong = "<controller type='sata' index='0'>" + at(0, 5) + "</controller>"
    assert (
        refusal(wrong, machine="q35") == "XML error: Primary SATA controller must have PCI address 0:0:1f.2"
    )


def test_a_chipset_function_is_taken() -> None:
    message = refusal(nic(inside=at(0, 1, 3)))
    assert message == "XML error: Attempted double use of PCI Address 0000:00:01.3"


# -- growing -----------------------------------------------------------------------------------------------


def test_every_express_device_gets_a_port_and_one_is_spare() -> None:
    assert models(NO_EXTRAS + nic() * 2, machine="q35") == ["pcie-root"] + ["pcie-root-port"] * 3
    found = places(NO_EXTRAS + nic() * 2, machine="q35")
    assert [found["interface user"], found["interface user'"]] == ["01:00.0", "02:00.0"]


def test_no_spare_port_where_the_user_made_controllers() -> None:
    assert models(NO_EXTRAS + bus(1, "pcie-root-port") + nic() * 2, machine="q35") == [
        "pcie-root",
        "pcie-root-port",
        "pcie-root-port",
    ]


def test_conventional_device_on_express_gets_a_bridge() -> None:
    found = places(NO_EXTRAS + nic("rtl8139"), machine="q35")
    assert found["controller pci 2"] == "01:00.0"
    assert found["interface user"] == "02:01.0"
    assert models(NO_EXTRAS + nic("rtl8139"), machine="q35")[1:3] == ["pcie-root-port", "pcie-to-pci-bridge"]


def test_conventional_device_without_that_bridge() -> None:
    old = LATEST.with_flags(remove=["pcie-pci-bridge"])
    found = places(NO_EXTRAS + nic("rtl8139"), old, machine="q35")
    assert found["controller pci 1"] == "00:1e.0"
    assert found["controller pci 2"] == "01:00.0"
    assert found["interface user"] == "02:01.0"


def test_eight_ports_share_a_slot() -> None:
    devices = NO_EXTRAS + "".join(bus(n, "pcie-root-port") for n in range(1, 10))
    found = places(devices, machine="q35")
    assert found["controller pci 1"] == "00:01.0"
    assert found["controller pci 8"] == "00:01.7"
    assert found["controller pci 9"] == "00:02.0"
    xml = stored(devices, machine="q35")
    assert xml.count("multifunction='on'") == 1
    assert "<target chassis='8' port='0xf'/>" in xml


def test_bridge_is_added_before_the_last_slot_is_gone() -> None:
    assert models(NO_EXTRAS + nic() * 29) == ["pci-root"]
    # one slot is kept for the bridge that a later device may need
    assert models(NO_EXTRAS + nic() * 30) == ["pci-root", "pci-bridge"]


def test_explicit_bus_adds_those_below_it() -> None:
    found = places(NO_EXTRAS + nic(inside=at(3, 4)))
    assert found["interface user"] == "03:04.0"
    assert [found[f"controller pci {n}"] for n in (1, 2, 3)] == ["00:02.0", "00:03.0", "00:04.0"]


def test_holes_in_the_numbers_are_filled() -> None:
    assert models(NO_EXTRAS + bus(2, "pci-bridge")) == ["pci-root", "pci-bridge", "pci-bridge"]


def test_full_root_can_not_grow() -> None:
    devices = "".join(bus(n, "pcie-root-port") for n in range(1, 250))
    assert refusal(devices, machine="q35") == (
        "internal error: a PCI slot is needed to connect a PCI controller model='pcie-root-port', "
        "but none is available, and it cannot be automatically added"
    )


def test_number_of_devices_makes_no_difference_to_the_first() -> None:
    few, many = (places(NO_EXTRAS + nic() * n, machine="q35") for n in (3, 60))
    assert [few[f"interface user{tick}"] for tick in ("", "'", "''")] == [
        many[f"interface user{tick}"] for tick in ("", "'", "''")
    ]


# -- what the user says ------------------------------------------------------------------------------------


def test_open_address_is_filled() -> None:
    found = places(
        "<video><model type='vga'/><address type='pci'/></video>" + nic(inside="<address type='pci'/>")
    )
    assert found["video"] == "00:02.0"
    assert found["interface user"] == "00:03.0"


def test_left_out_numbers_are_written() -> None:
    assert "bus='0x00' slot='0x07' function='0x0'" in stored(nic(inside="<address type='pci' slot='7'/>"))


def test_parts_of_a_usb2_controller_share_a_slot() -> None:
    parts = ("ich9-ehci1", "ich9-uhci1", "ich9-uhci2", "ich9-uhci3")
    devices = "".join(f"<controller type='usb' index='0' model='{model}'/>" for model in parts)
    assert [place for name, place in places(devices).items() if "usb" in name] == [
        "00:02.7",
        "00:02.0",
        "00:02.1",
        "00:02.2",
    ]
    on_q35 = [place for name, place in places(devices, machine="q35").items() if "usb" in name]
    assert on_q35 == ["00:1d.7", "00:1d.0", "00:1d.1", "00:1d.2"]


def test_function_0_says_that_there_are_more_unless_told_not_to() -> None:
    xml = stored(nic(inside=at(0, 7)) + nic(inside=at(0, 7, 1)))
    assert xml.count("multifunction='on'") == 1
    off = at(0, 7).replace("<address", "<address multifunction='off'")
    assert "multifunction='on'" not in stored(nic(inside=off) + nic(inside=at(0, 7, 1)))


#: (devices, machine, message behind ``XML error: ``)
MISPLACED = [
    (nic(inside=at(0, 7)) * 2, "pc", "Attempted double use of PCI Address 0000:00:07.0"),
    (nic(inside=at(0x100, 7)), "pc", "Invalid PCI address bus='0x100', must be <= 0xFF"),
    (nic(inside=at(0, 0x20)), "pc", "Invalid PCI address slot='0x20', must be <= 0x1F"),
    (nic(inside=at(0, 7, 8)), "pc", "Invalid PCI address function=0x8, must be <= 7"),
    (
        nic(inside="<address type='pci' domain='1' bus='0' slot='7'/>"),
        "pc",
        "Invalid PCI address 0001:00:07.0. Only PCI domain 0 is available",
    ),
    (nic(inside=at(1, 0)), "pc", "Invalid PCI address 0000:01:00.0. slot must be >= 1"),
    (
        bus(1, "pcie-root-port") + nic(inside=at(1, 1)),
        "q35",
        "Invalid PCI address 0000:01:01.0. slot must be <= 0",
    ),
    (
        bus(0, "pcie-root"),
        "pc",
        (
            "The PCI controller with index='0' must be model='pci-root' for this machine type, but "
            "model='pcie-root' was found instead"
        ),
    ),
    (bus(1, "pci-bridge") * 2, "pc", "Multiple 'pci' controllers with index '1'"),
    (bus(1, "pci-root"), "pc", "pci-root and pcie-root controllers should have index 0"),
    (
        bus(1, "dmi-to-pci-bridge") + bus(2, "pci-bridge") + bus(3, "dmi-to-pci-bridge", at(2, 1)),
        "q35",
        (
            "The device at PCI address 0000:02:01.0 cannot be plugged into the PCI controller with "
            "index='2'. It requires a controller that accepts a dmi-to-pci-bridge."
        ),
    ),
    (
        bus(1, "pcie-root-port") + "<iommu model='virtio'>" + at(1, 0) + "</iommu>",
        "q35",
        "The device at PCI address 0000:01:00.0 needs to be an integrated device (bus=0)",
    ),
    (
        bus(1, "pci-expander-bus", "<target><node>1</node></target>"),
        "pc",
        (
            "pci-expander-bus with index 1 is configured for a NUMA node (1) not present in the domain's "
            "<cpu><numa> array (0)"
        ),
    ),
    ("<controller type='usb' index='0'/>", "isapc", "No PCI buses available"),
]


@pytest.mark.parametrize(("devices", "machine", "message"), MISPLACED)
def test_misplaced(devices: str, machine: str, message: str) -> None:
    assert refusal(devices, machine=machine) == f"XML error: {message}"


def test_a_bridge_sits_on_a_bus_before_its_own() -> None:
    assert refusal(bus(1, "pci-bridge", at(2, 1)) + bus(2, "pci-bridge")) == (
        "unsupported configuration: PCI controller at index 1 (0x01) has bus='0x02', but index must be larger "
        "than bus"
    )


def test_roots_and_expanders_that_the_board_does_not_have() -> None:
    assert refusal(bus(0, "pci-root", at(0, 8))) == (
        "unsupported configuration: pci-root and pcie-root controllers should not have an address"
    )
    assert refusal(bus(1, "pcie-expander-bus")) == (
        "unsupported configuration: pcie-expander-bus controllers are not supported with this machine type"
    )


def test_an_error_shows_the_bus() -> None:
    with pytest.raises(AddressError) as caught:
        stored(nic(inside=at(0, 7)) * 2)
    assert "bus 0 (pci-root): 07" in caught.value.hint
    assert caught.value.line > 0


# -- options of controllers --------------------------------------------------------------------------------


def test_expanders_count_down() -> None:
    xml = stored(bus(1, "pci-expander-bus") + bus(2, "pci-expander-bus"))
    assert re.findall(r"busNr='(\d+)'", xml) == ["254", "252"]
    used = bus(1, "pci-expander-bus", "<target busNr='2'/>") + bus(2, "pci-expander-bus")
    assert "No free busNr lower than current lowest busNr" in refusal(used)


def test_root_port_is_an_old_one_where_there_is_no_other() -> None:
    old = LATEST.with_flags(remove=["pcie-root-port"])
    assert "<model name='ioh3420'/>" in stored(bus(1, "pcie-root-port"), old, machine="q35")


def test_host_bridges_of_pseries_have_numbers_of_their_own() -> None:
    explicit = bus(1, "pci-root", "<target index='2'/>") + bus(2, "pci-root") + bus(3, "pci-root")
    assert re.findall(r"<target index='(\d+)'/>", stored(explicit, PSERIES)) == ["0", "2", "1", "3"]


# -- other boards ------------------------------------------------------------------------------------------


def test_isolation_groups() -> None:
    source = "<source><address domain='0x{}' bus='1' slot='0' function='0x{}'/></source>"
    hostdev = "<hostdev mode='subsystem' type='pci' managed='yes'>" + source + "</hostdev>"
    known = {"0001:01:00.0": 5, "0001:01:00.1": 5, "0002:01:00.0": 7}
    host = Host.nominal("ppc64")._replace(
        pci={name: PciDevice(express=False, iommu_group=g) for name, g in known.items()},
    )
    devices = hostdev.format(1, 0) + hostdev.format(2, 0) + hostdev.format(1, 1) + nic()
    found = places(devices, PSERIES, host=host)
    assert [found["hostdev pci"], found["hostdev pci'"], found["hostdev pci''"]] == [
        "01:01.0",
        "02:01.0",
        "01:02.0",
    ]
    assert found["interface user"] == "00:01.0"


def test_mixing_groups_by_hand_makes_a_bus_common() -> None:
    host = Host.nominal("ppc64")._replace(pci={"0001:01:00.0": PciDevice(express=False, iommu_group=5)})
    source = "<source><address domain='0x1' bus='1' slot='0' function='0'/></source>"
    by_hand = f"<hostdev mode='subsystem' type='pci' managed='yes'>{source}{at(1, 2)}</hostdev>"
    found = places(nic(inside=at(1, 1)) + by_hand + nic(), PSERIES, host=host)
    assert found["hostdev pci"] == "01:02.0"
    assert found["interface user'"] == "00:01.0"


def test_arm_without_root_ports_has_virtio_on_mmio() -> None:
    bare = ARM.with_flags(remove=["pcie-root-port"])
    assert "<address type='virtio-mmio'/>" in stored(nic(), bare)
    assert places(nic(), ARM)["interface user"] == "01:00.0"
    mixed = "<memballoon model='virtio'><address type='virtio-mmio'/></memballoon>" + nic()
    assert stored(mixed, ARM).count("<address type='virtio-mmio'/>") == 2


def zpci(function: int, more: str) -> str:
    source = f"<source><address domain='1' bus='1' slot='0' function='{function}'/></source>"
    address = f"<address type='pci'>{more}</address>"
    return f"<hostdev mode='subsystem' type='pci'><driver name='vfio'/>{source}{address}</hostdev>"


def test_zpci_ids() -> None:
    xml = stored(zpci(0, "<zpci uid='0x2'/>") + zpci(1, "") + zpci(2, "<zpci uid='0x1' fid='0x5'/>"), S390)
    assert re.findall(r"<zpci uid='(\w+)' fid='(\w+)'/>", xml) == [
        ("0x0002", "0x00000000"),
        ("0x0003", "0x00000001"),
        ("0x0001", "0x00000005"),
    ]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("uid='0x1234' fid='0x1'", "internal error: zPCI uid 11064 is already reserved"),
        ("uid='0x1235' fid='0x10'", "internal error: zPCI fid 20 is already reserved"),
        ("uid='0x0'", "XML error: Invalid PCI address uid='0x0000', must be > 0x0000 and <= 0xffff"),
        ("uid='0x10000'", "XML error: Invalid PCI address uid='0x10000', must be > 0x0000 and <= 0xffff"),
    ],
)
def test_zpci_refusals(ids: str, message: str) -> None:
    first = zpci(0, "<zpci uid='0x1234' fid='0x10'/>")
    assert refusal(first + zpci(1, f"<zpci {ids}/>"), S390) == message


def test_zpci_needs_a_qemu_that_has_it() -> None:
    devices = nic(inside=at(0, 7, more="<zpci uid='0x1' fid='0x1'/>"))
    assert refusal(devices) == "unsupported configuration: This QEMU binary doesn't support zPCI"


# -- the tree ----------------------------------------------------------------------------------------------

_KINDS = st.sampled_from([PCI, PCIE, Need(Kind.PCIE_ROOT_PORT, automatic=False, joins=True)])


@st.composite
def trees(draw: st.DrawFn) -> PciTree:
    tree = PciTree(Abilities(pcie_to_pci_bridge=True), growing=draw(st.booleans()))
    for model in draw(st.lists(st.sampled_from(sorted(BUS_KINDS)), min_size=1, max_size=4)):
        tree.add(model)
    return tree


@settings(deadline=None)
@given(trees(), st.lists(_KINDS, max_size=40))
def test_nothing_is_given_twice(tree: PciTree, needs: list[Need]) -> None:
    taken: set[PciAddress] = set()
    for need in needs:
        try:
            place = tree.next(need)
        except AddressError:
            continue
        assert place not in taken
        taken.add(place)
        bus_kind = tree.buses[place.bus].kind
        assert bus_kind.first <= place.slot <= bus_kind.last
        with pytest.raises(AddressError):
            tree.reserve(place, need)
    for place in taken:
        tree.release(place)
    assert not taken & {p for b in tree.buses for p in _used(b.index, b.slots)}


def _used(index: int, slots: list[int]) -> list[PciAddress]:
    return [
        PciAddress(0, index, slot, function)
        for slot, mask in enumerate(slots)
        for function in range(8)
        if mask >> function & 1
    ]


@settings(deadline=None)
@given(st.integers(0, 3), st.integers(0, 31), st.integers(0, 7))
def test_a_failure_changes_nothing(bus_number: int, slot: int, function: int) -> None:
    tree = PciTree(Abilities())
    tree.add("pci-root")
    tree.add("pci-bridge")
    tree.reserve(PciAddress(0, 0, 5, 0), PCI)
    before = [list(b.slots) for b in tree.buses], list(tree.free())
    place = PciAddress(0, bus_number, slot, function)
    try:
        tree.reserve(place, PCI)
    except AddressError:
        assert ([list(b.slots) for b in tree.buses], list(tree.free())) == before
    else:
        tree.release(place)
        assert ([list(b.slots) for b in tree.buses], list(tree.free())) == before


_PORTS = "".join(bus(number, "pcie-root-port") for number in range(1, 9))


@pytest.mark.parametrize("machine", ["pc", "q35"])
@pytest.mark.parametrize(
    "devices",
    [
        "",
        nic("e1000"),
        nic("virtio", at(0, 9)),
        _PORTS,
        _PORTS + nic("virtio", at(1, 0)),
        bus(9, "pcie-root-port"),
        "<video><model type='virtio'/></video>",
        "<video><model type='virtio'/></video>" + nic("virtio", at(0, 1)),
        "<video><model type='virtio'/></video>" + _PORTS + nic("virtio", at(0, 1)),
        bus(1, "pcie-root-port")
        + bus(2, "pcie-switch-upstream-port")
        + bus(3, "pcie-switch-downstream-port"),
        "<sound model='ich9'/><controller type='sata' index='1'/>",
        bus(1, "pci-bridge") + nic("virtio", at(0, 9)),
        bus(1, "dmi-to-pci-bridge") + bus(2, "pci-bridge"),
        bus(1, "pci-expander-bus") + bus(2, "pci-bridge", at(1, 0)),
    ],
)
def test_a_dry_run_adds_what_is_counted(machine: str, devices: str) -> None:
    for more in (0, 1, 4, 5, 6, 7, 8, 9, *range(24, 33), *range(54, 64)):
        _compare_rounds(document(devices + nic() * more, machine=machine))


@pytest.mark.parametrize("more", [*range(222, 240, 3), 250, 251, 252, 253, 254])
def test_a_dry_run_adds_what_is_counted_up_to_the_last_bus(more: int) -> None:
    _compare_rounds(document(nic() * more, machine="q35"))


def _compare_rounds(text: str) -> None:
    """The definition is the same whether the controllers that it takes are counted or tried."""

    def outcome() -> str:
        try:
            return Guest.from_xml(text).define(LATEST, Host.nominal()).to_xml()
        except ConfigError as refused:
            return str(refused)

    found = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PciLayout, "ports_lacking", lambda layout, tree: None)
        assert outcome() == found


def test_release_makes_the_lowest_slot_the_next() -> None:
    tree = PciTree(Abilities())
    tree.add("pci-root")
    first, second, _ = (tree.next(PCI) for _ in range(3))
    tree.release(second)
    tree.release(first)
    assert tree.next(PCI) == first
    assert tree.next(PCI) == second


_DEVICES = st.lists(
    st.sampled_from(
        [
            nic(),
            nic("rtl8139"),
            nic("e1000e"),
            "<controller type='scsi' model='virtio-scsi'/>",
            "<sound model='ich9'/>",
            "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
            "<shmem name='s'><model type='ivshmem-plain'/></shmem>",
            "<controller type='pci' model='pcie-root-port'/>",
        ]
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=40)
@given(_DEVICES)
def test_a_definition_stays_as_it_is(devices: list[str]) -> None:
    host = Host.nominal()
    text = document(bus(0, "pcie-root") + "".join(devices), machine="q35")
    once = Guest.from_xml(text).define(LATEST, host).to_xml()
    assert Guest.from_xml(once).define(LATEST, host).to_xml() == once
    root = parse(once)
    seen = [
        tuple(node.attrib[part] for part in ("bus", "slot", "function"))
        for node in root.iter()
        if node.tag == "address" and node.get("type") == "pci"
    ]
    assert len(seen) == len(set(seen))
