"""``<clock>`` and what happens at power off, reboot, crash.  https://libvirt.org/formatdomain.html#time-keeping"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option
from qemushim.document.fields import Choice, Long, Many, One, Switch, Text
from qemushim.document.item import Item, Schema
from qemushim.document.units import parse_integer
from qemushim.errors import ConfigError, error

if TYPE_CHECKING:
    from qemushim.context import Build, Define
    from qemushim.document.node import Node

TIMERS = ("platform", "pit", "rtc", "hpet", "tsc", "kvmclock", "hypervclock", "armvtimer")
#: what ``on_poweroff`` and ``on_reboot`` take
LIFECYCLE = ("destroy", "restart", "rename-restart", "preserve")
#: what ``on_crash`` takes beyond that
CRASH = [*LIFECYCLE, "coredump-destroy", "coredump-restart"]
LOCKFAILURE = ("poweroff", "restart", "pause", "ignore")


class Action(Choice[str | None]):
    """What happens at an end of the guest; libvirt has words of its own for one that it does not know."""

    def wrong(self, raw: str, place: Node) -> ConfigError:
        return error.unsupported(f"unknown {place.tag} action: {raw}", place, self.advice())


class Catchup(Item):
    """``<catchup>``: how missed ticks are caught up with."""

    tag = "catchup"
    threshold = Long("@threshold")
    slew = Long("@slew")
    limit = Long("@limit")


class Timer(Item):
    """``<timer>``: one source of ticks."""

    tag = "timer"
    name = Choice("@name", TIMERS, required=True)
    present = Switch("@present")
    tickpolicy = Choice("@tickpolicy", ("delay", "catchup", "merge", "discard"))
    track = Choice("@track", ("boot", "guest", "wall", "realtime"))
    #: Hz, of the time stamp counter
    frequency = Long("@frequency")
    mode = Choice("@mode", ("auto", "native", "emulate", "paravirt", "smpsafe"))
    catchup = One("catchup", Catchup)


_NO_START = "missing 'start' attribute for clock with offset='absolute'"
#: offset → the attributes that it is written with
_ATTRIBUTES = {
    "utc": ("adjustment",),
    "localtime": ("adjustment",),
    "variable": ("adjustment", "basis"),
    "timezone": ("timezone",),
    "absolute": ("start",),
}


class Clock(Item):
    """``<clock>``: where the guest's real-time clock starts, and its timers."""

    tag = "clock"
    offset = Choice("@offset", ("", "utc", "localtime", "variable", "timezone", "absolute")).says(
        "unknown clock offset '{}'"
    )
    adjustment = Text("@adjustment")
    basis = Choice("@basis", ("utc", "localtime")).says("unknown clock basis '{}'")
    timezone = Text("@timezone")
    start = Long("@start").says(_NO_START, "internal error")
    timers = Many("timer", Timer)

    @classmethod
    def schema_for(cls, node: Node) -> Schema:
        """What does not belong to the offset is not looked at."""
        offset = node.attrib.get("offset") or "utc"
        return cls.only("offset", *_ATTRIBUTES.get(offset, ()), "timers")


def complete_clock(d: Define) -> None:
    """Clock offset, timers."""
    node = d.domain.node.ensure("clock")
    attrib = node.attrib
    offset = attrib["offset"] = attrib.get("offset") or "utc"
    if not attrib.get("adjustment"):
        attrib.pop("adjustment", None)
    adjustment = attrib.get("adjustment")
    if offset in ("utc", "localtime") and adjustment is not None and adjustment != "reset":
        # a clock that was moved once keeps its distance from what it was based on
        _number(adjustment, node)
        attrib.update(offset="variable", basis=offset)
        offset = "variable"
    if offset == "variable":
        attrib["adjustment"] = str(_number(attrib.get("adjustment", "0"), node))
        attrib.setdefault("basis", "utc")
    elif offset == "timezone" and not attrib.get("timezone"):
        raise error.internal(
            "missing 'timezone' attribute for clock with offset='timezone'", node, "timezone='Europe/Berlin'"
        )
    elif offset == "absolute" and "start" not in attrib:
        raise error.internal(_NO_START, node, "seconds since 1970")
    kept = _ATTRIBUTES[offset]
    node.attrib = {"offset": offset, **{name: attrib[name] for name in kept if name in attrib}}
    for timer in node.all("timer"):
        if Timer(timer).frequency == 0:
            timer.drop("frequency")


def _number(raw: str, node: Node) -> int:
    try:
        return parse_integer(raw)
    except ValueError:
        raise error.xml(f"unknown clock adjustment '{raw}'", node, "seconds, or 'reset'") from None


def complete_lifecycle(d: Define) -> None:
    """on_poweroff, on_reboot, on_crash."""
    domain = d.domain
    domain.on_poweroff = domain.on_poweroff or "destroy"
    domain.on_reboot = domain.on_reboot or "restart"
    domain.on_crash = domain.on_crash or "destroy"


# -- checks -----------------------------------------------------------------------------------


#: setting → the timers that have none
_WITHOUT = {
    "tickpolicy": ("kvmclock", "hypervclock"),
    "track": ("pit", "hpet", "tsc", "kvmclock", "hypervclock", "armvtimer"),
    "frequency": ("platform", "pit", "rtc", "hpet", "kvmclock", "hypervclock", "armvtimer"),
    "mode": ("platform", "pit", "rtc", "hpet", "kvmclock", "hypervclock", "armvtimer"),
}


def check_clock(d: Define) -> None:
    """Timers that this machine or this QEMU can not have."""
    clock = d.domain.clock
    timers = clock.timers if clock is not None else []
    for timer in timers:
        for setting, without in _WITHOUT.items():
            if setting in timer.node.attrib and timer.name in without:
                message = f"timer {timer.name} doesn't support setting of timer {setting}"
                raise error.unsupported(message, timer.node, f"drop {setting}=")
    for timer in timers:
        _check_timer(timer, d)


def _check_timer(timer: Timer, d: Define) -> None:
    name, board = timer.name, d.board
    if name == "platform":
        raise error.unsupported(f"unsupported timer type (name) '{name}'", timer.node, "remove the timer")
    if name in ("tsc", "kvmclock", "hypervclock"):
        if timer.present and not board.is_x86:
            raise _misplaced(timer, d)
    elif name == "rtc":
        if timer.track == "boot":
            raise error.unsupported(
                f"unsupported rtc timer track '{timer.track}'", timer.node, "track='guest' or 'wall'"
            )
        if timer.tickpolicy in ("merge", "discard"):
            raise error.unsupported(
                f"unsupported rtc timer tickpolicy '{timer.tickpolicy}'",
                timer.node,
                "tickpolicy='delay' or 'catchup'",
            )
    elif name == "pit":
        if timer.tickpolicy == "merge":
            raise error.unsupported(
                f"unsupported pit tickpolicy '{timer.tickpolicy}'", timer.node, "tickpolicy='delay'"
            )
    elif name == "hpet":
        if timer.present and not board.is_x86:
            raise error.unsupported(
                "hpet timer is not supported by this architecture", timer.node, "x86 machines have one"
            )
    elif name == "armvtimer":
        _check_armvtimer(timer, d)


def _check_armvtimer(timer: Timer, d: Define) -> None:
    if d.domain.virt != "kvm" or not d.board.is_arm_virt:
        raise _misplaced(timer, d)
    if timer.present is False:
        raise error.unsupported(f"The '{timer.name}' timer can't be disabled", timer.node, "drop present=")
    if not d.emulator.device_property("max-arm-cpu", "kvm-no-adjvtime"):
        raise error.unsupported(
            f"Configuring the '{timer.name}' timer is not supported with this QEMU binary",
            timer.node,
            "remove the timer",
        )
    if timer.tickpolicy not in (None, "delay", "discard"):
        raise error.unsupported(
            f"The '{timer.name}' timer does not support tickpolicy '{timer.tickpolicy}'",
            timer.node,
            "tickpolicy='delay' or 'discard'",
        )


#: timer → the guests that have it
_WHERE = {
    "armvtimer": "a timer of KVM guests on the 'virt' machine of ARM",
    "hypervclock": "a timer of x86 guests",
    "kvmclock": "a timer of x86 guests",
    "tsc": "a timer of x86 guests",
}


def _misplaced(timer: Timer, d: Define) -> Exception:
    domain = d.domain
    return error.unsupported(
        f"Configuring the '{timer.name}' timer is not supported for virtType={domain.virt} "
        f"arch={domain.arch} machine={domain.machine_type} guests",
        timer.node,
        _WHERE[timer.name or ""],
    )


def check_lifecycle(d: Define) -> None:
    """Actions that QEMU has no way to do."""
    domain = d.domain
    if domain.on_poweroff == "preserve" or domain.on_reboot == "preserve":
        raise error.unsupported(
            "qemu driver doesn't support the 'preserve' action for 'on_reboot'/'on_poweroff'",
            domain.node,
            "destroy or restart",
        )
    if "rename-restart" in (domain.on_poweroff, domain.on_reboot, domain.on_crash):
        raise error.unsupported(
            "qemu driver doesn't support the 'rename-restart' action for "
            "'on_reboot'/'on_poweroff'/'on_crash'",
            domain.node,
            "destroy or restart",
        )
    if domain.on_poweroff == "restart" and domain.on_reboot == "destroy":
        raise error.unsupported(
            "qemu driver doesn't support 'onReboot' set to 'destroy and 'onPoweroff' set to 'reboot'",
            domain.node,
            "the same action for both",
        )


# -- options -----------------------------------------------------------------------------------

TRACKS = {"guest": "vm", "wall": "host", "realtime": "rt"}


def rtc_options(b: Build) -> Iterator[Option]:
    """``-rtc``, and what the timers need beside it."""
    clock = b.domain.clock
    assert clock is not None, "a definition has a clock"
    pairs = {"base": _base(clock, b)}
    timers = clock.timers
    rtc = next((t for t in timers if t.name == "rtc"), None)
    if rtc is not None:
        if rtc.track in TRACKS:
            pairs["clock"] = TRACKS[rtc.track]
        if rtc.tickpolicy == "catchup":
            pairs["driftfix"] = "slew"
    yield b.pairs("-rtc", "", pairs, clock.node, "where the guest's clock starts")
    for timer in timers:
        if timer.name == "pit" and timer.tickpolicy in (None, "delay", "discard"):
            yield from _pit(timer, b)
        # since QEMU 8.0 the HPET is a property of the machine
        old = b.board.is_x86 and not b.emulator.option("machine", "hpet")
        if timer.name == "hpet" and timer.present is False and old:
            yield b.option("-no-hpet", None, timer.node, "the guest has no HPET")


def _pit(timer: Timer, b: Build) -> Iterator[Option]:
    if b.emulator.device_property("kvm-pit", "lost_tick_policy"):
        policy = timer.tickpolicy or "delay"
        yield b.option("-global", f"kvm-pit.lost_tick_policy={policy}", timer.node, "missed ticks of the PIT")


def _base(clock: Clock, b: Build) -> str:
    if clock.offset == "absolute":
        return calendar(clock.start or 0)
    if clock.offset == "variable":
        local = b.host.utc_offset if clock.basis == "localtime" else 0
        return calendar(b.host.now + local + parse_integer(clock.adjustment or "0"))
    return "utc" if clock.offset == "utc" else "localtime"


def calendar(seconds: int) -> str:
    """``YYYY-mm-ddTHH:MM:SS`` of seconds since 1970, also for years that ``datetime`` does not know."""
    days, rest = divmod(seconds, 86400)
    # days since the first of March of year 0, in eras of 400 years (the proleptic Gregorian calendar)
    era, day = divmod(days + 719468, 146097)
    year = (day - day // 1460 + day // 36524 - day // 146096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5
    year += 400 * era + (month > 9)
    month += 3 if month < 10 else -9
    return f"{year:04d}-{month:02d}-{day + 1:02d}T{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"


def power_options(b: Build) -> Iterator[Option]:
    """``-no-shutdown``, ``-no-acpi``, S3/S4."""
    if not b.alone:
        yield _shutdown_option(b)
    machine = b.machine
    features = b.domain.node.child("features")
    acpi = features is not None and features.child("acpi") is not None
    told = machine is not None and machine.acpi is not None
    if not told and not acpi and b.domain.arch in ("x86_64", "i686", "aarch64"):
        yield b.option("-no-acpi", rule="no <acpi/>, and a QEMU that has no machine property for it")
    power = b.domain.pm
    if power is not None:
        device = "ICH9-LPC" if b.board.is_q35 else "PIIX4_PM"
        states = (("disable_s3", power.suspend_to_mem), ("disable_s4", power.suspend_to_disk))
        for name, wanted in states:
            if wanted is not None:
                text = f"{device}.{name}={0 if wanted else 1}"
                yield b.option("-global", text, power.node, "which sleep states the guest sees")


def _shutdown_option(b: Build) -> Option:
    domain = b.domain
    ends = domain.on_reboot == "destroy" and domain.on_poweroff == "destroy"
    ends = ends and domain.on_crash in ("destroy", "coredump-destroy")
    if ends and not b.emulator.qapi("set-action"):
        return b.option(
            "-no-reboot", None, domain.node.child("on_reboot"), "every end of the guest is the end"
        )
    return b.option("-no-shutdown", rule="what a shutdown means is decided by libvirt")
