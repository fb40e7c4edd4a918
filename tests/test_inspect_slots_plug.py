"""What is proposed works: with it all that is wanted can be plugged, while the guest runs and at its next start."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from qemushim.document.writer import keep
from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError, ShimError
from qemushim.guest import Guest
from qemushim.host import Host
from qemushim.hotplug import LiveGuest, plan_attach
from qemushim.inspect.slots import BY_NAME, SORTS, plan, plan_cold, samples
from qemushim.inspect.survey import survey
from tests.small_guests import ARM, LATEST, OLD, PSERIES, RISCV, S390, document

#: board → its QEMU; all buses that there are
BOARDS: dict[str, tuple[Emulator, str]] = {
    "pc": (LATEST, "pc"),
    "pc of 2022": (OLD, "pc"),
    "q35": (LATEST, "q35"),
    "virt": (ARM, "virt"),
    "riscv": (RISCV, "virt"),
    "pseries": (PSERIES, "pseries"),
    "s390": (S390, "s390-ccw-virtio"),
}
ACPI = "<features><acpi/></features>"
HAD = {
    "disk": "<disk type='file'><source file='/a'/><target dev='vda' bus='virtio'/></disk>",
    "scsi disk": "<disk type='file'><source file='/b'/><target dev='sdb' bus='scsi'/></disk>",
    "usb disk": "<disk type='file'><source file='/c'/><target dev='sda' bus='usb'/></disk>",
    "card": "<interface type='user'><model type='virtio'/></interface>",
    "old card": "<interface type='user'><model type='e1000'/></interface>",
    "channel": "<channel type='unix'><target type='virtio' name='org.example.had'/></channel>",
    "many cards": "<interface type='user'><model type='virtio'/></interface>" * 22,
}

guests = st.tuples(
    st.sampled_from(sorted(BOARDS)),
    st.lists(st.sampled_from(sorted(HAD)), unique=True, max_size=3),
    st.booleans(),
)
wanted = st.lists(
    st.tuples(st.integers(1, 9), st.sampled_from([sort.name for sort in SORTS])),
    min_size=1,
    max_size=3,
    unique_by=lambda want: want[1],
)


def made(board: str, had: list[str], *, defined: bool) -> tuple[Guest, Emulator, Host] | None:
    """A guest of a board, which may be a definition already; ``None`` where the board can not have it."""
    emulator, machine = BOARDS[board]
    host = Host.nominal(emulator.arch)._replace(domain_id=3, now=1_500_000_000)
    text = document("".join(HAD[name] for name in had), emulator.arch, "", machine)
    if emulator.arch == "x86_64":
        text = text.replace("</os>", f"</os>{ACPI}")
    guest = Guest.from_xml(text)
    try:
        definition = guest.define(emulator, host)
    except ConfigError:
        return None
    return (definition if defined else guest), emulator, host


def assert_there(guest: Guest, want: list[tuple[int, str]]) -> None:
    """The guest has at least as many devices of each kind as were wanted."""
    for number, name in want:
        tag = BY_NAME[name].xml[1:].partition(" ")[0]
        assert len(guest.domain.lists[tag]) >= number


@settings(max_examples=60)
@given(guests, wanted)
def test_what_is_proposed_can_be_plugged(
    guest: tuple[str, list[str], bool], want: list[tuple[int, str]]
) -> None:
    board, had, defined = guest
    start = made(board, had, defined=defined)
    if start is None:
        return
    document_, emulator, host = start
    try:
        proposal = plan(document_, want, emulator, host)
    except ConfigError:
        return
    s = survey(proposal.guest, emulator, host)
    live = LiveGuest.started(proposal.guest.define(emulator, host), emulator, host)[0]
    for node in samples(s, want):
        live = plan_attach(live, keep(node), emulator, host).document
    # and the guest that has them all starts again
    assert not proposal.add or all("<controller" in xml for xml in proposal.add)
    assert_there(live, want)


@settings(max_examples=40)
@given(guests, wanted)
def test_what_fits_at_the_next_start_is_defined(
    guest: tuple[str, list[str], bool], want: list[tuple[int, str]]
) -> None:
    board, had, defined = guest
    start = made(board, had, defined=defined)
    if start is None:
        return
    document_, emulator, host = start
    try:
        plan_cold(document_, want, emulator, host)
    except ShimError:
        return
    definition = document_.define(emulator, host)
    for node in samples(survey(document_, emulator, host), want):
        definition = definition.attach(keep(node), emulator, host)
    assert_there(definition.define(emulator, host), want)


def test_every_board_can_be_given_more_while_it_runs() -> None:
    """That no proposal is made where one could be would pass the tests above."""
    for board in BOARDS:
        start = made(board, ["many cards"], defined=True)
        assert start is not None
        for name in ("nic", "disk", "disk-scsi"):
            assert plan(start[0], [(9, name)], *start[1:]).guest is not None, (board, name)
