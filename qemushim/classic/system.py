"""The guest-wide arguments: machine, processors, memory, names, clock, boot, incoming migration."""

from __future__ import annotations

import re
from collections.abc import Iterator

from qemushim.classic.context import ClassicBuild
from qemushim.classic.defaults import BOOT_LETTERS
from qemushim.classic.document import Cpu, Timer
from qemushim.command.option import Option
from qemushim.document.units import parse_integer
from qemushim.errors import error
from qemushim.machine.clock import calendar

#: below a hugetlbfs mount, where libvirt lets QEMU make its files
_HUGEPAGES = "libvirt/qemu"
#: policy of a CPU feature → its sign; what is optional or left to the host has none
_SIGNS = {"force": "+", "require": "+", "optional": "+", "disable": "-", "forbid": "-"}


def machine_options(b: ClassicBuild) -> Iterator[Option]:
    domain = b.domain
    yield b.option("-S", None, None, "the guest waits until it is told to run")
    machine = domain.node.value("os/type/@machine")
    if machine:
        yield b.option("-M", machine, domain.node.find("os/type"), "the machine type, by its versioned name")


def cpu_options(b: ClassicBuild) -> Iterator[Option]:
    """The CPU model; a 32-bit guest on a 64-bit QEMU gets a 32-bit one."""
    cpu = b.domain.cpu
    if cpu is not None:
        text = _cpu(b, cpu)
        if text:
            yield b.option("-cpu", text, cpu.node, "the CPU model of the document")
            return
    binary = b.command.binary
    long = "x86_64" in binary or (b.host.arch == "x86_64" and "kvm" in binary)
    if b.domain.node.value("os/type/@arch") == "i686" and long:
        yield b.option("-cpu", "qemu32", b.domain.node.find("os/type"), "a 32-bit guest on a 64-bit QEMU")


def _cpu(b: ClassicBuild, cpu: Cpu) -> str:
    mode = cpu.mode or "custom"
    if mode == "host-passthrough":
        if not b.has("cpu-host"):
            raise error.unsupported(
                f"CPU mode '{mode}' is not supported by this QEMU", cpu.node, "name a model"
            )
        return "host" + _features(cpu)
    if mode != "custom":
        raise error.unsupported(f"CPU mode '{mode}' is not supported by this QEMU", cpu.node, "name a model")
    if not cpu.model:
        return ""
    if b.letter and b.host.cpu is None:
        raise error.unsupported("CPU specification not supported by hypervisor", cpu.node, "drop <cpu>")
    return cpu.model + _features(cpu)


def _features(cpu: Cpu) -> str:
    return "".join(f",{_SIGNS[feature.policy]}{feature.name}" for feature in cpu.features)


def accelerator_options(b: ClassicBuild) -> Iterator[Option]:
    virt = b.domain.type
    words = {"qemu": (("kqemu", "-no-kqemu"), ("kvm", "-no-kvm")), "kvm": (("enable-kvm", "-enable-kvm"),)}
    for capability, flag in words.get(virt, ()):
        if b.has(capability):
            yield b.option(flag, None, b.domain.node, f"the domain type is {virt}")


def memory_options(b: ClassicBuild) -> Iterator[Option]:
    domain = b.domain
    yield b.option(
        "-m", str(domain.memory // 1024), domain.node.child("memory"), "memory in MiB, rounded down"
    )
    backing = domain.memory_backing
    if backing is None or not backing.hugepages:
        return
    if not b.has("mem-path"):
        raise error.unsupported(
            "hugepages are not supported by this QEMU binary", backing.node, "it has no -mem-path"
        )
    mounts = b.host.hugepages
    mount = next((m for m in mounts if m.default), mounts[0] if mounts else None)
    if mount is None:
        raise error.unsupported("hugetlbfs filesystem is not mounted", backing.node, "mount it on the host")
    rule = "memory is backed by huge pages"
    yield b.option("-mem-prealloc", None, backing.node, rule)
    yield b.option("-mem-path", f"{mount.mount}/{_HUGEPAGES}", backing.node, rule)


def smp_options(b: ClassicBuild) -> Iterator[Option]:
    vcpu = b.domain.vcpu
    assert vcpu is not None, "filled in when the domain was read"
    text = str(vcpu.count)
    if b.has("smp-topology"):
        cpu = b.domain.cpu
        if cpu is not None and cpu.sockets:
            sockets, cores, threads = cpu.sockets, cpu.cores, cpu.threads
        else:
            sockets, cores, threads = vcpu.count, 1, 1
        text += f",sockets={sockets},cores={cores},threads={threads}"
    yield b.option("-smp", text, vcpu.node, "processors, and how they are packed where QEMU asks for it")


def identity_options(b: ClassicBuild) -> Iterator[Option]:
    domain = b.domain
    if b.has("name"):
        yield b.option("-name", domain.name, domain.node.child("name"), "the name of the guest")
    if b.has("uuid"):
        yield b.option(
            "-uuid", domain.uuid, domain.node.child("uuid"), "the guest's identity in its firmware"
        )
    kind = domain.node.find("os/type")
    assert kind is not None, "filled in when the domain was read"
    if domain.type != "xen" and kind.text.strip() not in ("xen", "linux"):
        return
    number = str(b.host.domain_id)
    rule = "a Xen guest is known by the number of its domain"
    if b.has("domid"):
        yield b.option("-domid", number, kind, rule)
    elif b.has("xen-domid"):
        yield b.option("-xen-attach", None, kind, rule)
        yield b.option("-xen-domid", number, kind, rule)
    else:
        raise error.unsupported(
            "qemu emulator does not support xen guests", kind, "xenner, or a QEMU with -xen-domid, does"
        )


def default_options(b: ClassicBuild) -> Iterator[Option]:
    if b.has("device"):
        yield b.option("-nodefaults", None, None, "nothing is there but what is asked for")


# -- clock ---------------------------------------------------------------------------------------------------


def clock_options(b: ClassicBuild) -> Iterator[Option]:
    clock = b.domain.clock
    assert clock is not None, "filled in when the domain was read"
    if b.has("rtc"):
        words = [f"base={_base(b)}"]
        for timer in clock.timers:
            if timer.name == "rtc":
                words += _rtc_timer(timer)
        yield b.option("-rtc", ",".join(words), clock.node, "where the real-time clock starts from")
    elif clock.offset in ("localtime", "timezone"):
        yield b.option("-localtime", None, clock.node, "the real-time clock has local time")
    elif clock.offset != "utc":
        raise error.unsupported(
            f"unsupported clock offset '{clock.offset}'",
            clock.node,
            "this QEMU's clock has UTC or local time",
        )
    for timer in clock.timers:
        yield from _timer(b, timer)


def _base(b: ClassicBuild) -> str:
    clock = b.domain.clock
    assert clock is not None
    if clock.offset != "variable":
        return "utc" if clock.offset == "utc" else "localtime"
    text = clock.adjustment or "0"
    try:
        date = calendar(b.host.now + parse_integer(text))
    except ValueError:
        raise error.xml(f"Invalid clock adjustment '{text}'", clock.node, "seconds from UTC") from None
    return _unpadded(date) if b.letter else date


def _unpadded(date: str) -> str:
    """Months from 0 and no zeros, as libvirt 0.8.0 had it: QEMU refuses January, and is a month early."""
    year, month, day, hour, minute, second = (int(part) for part in re.split("[-T:]", date))
    return f"{year}-{month - 1}-{day}T{hour}:{minute}:{second}"


def _rtc_timer(timer: Timer) -> Iterator[str]:
    if timer.track == "guest":
        yield "clock=vm"
    elif timer.track == "wall":
        yield "clock=host"
    elif timer.track is not None:
        raise error.unsupported(f"unsupported rtc timer track '{timer.track}'", timer.node, "guest or wall")
    if timer.tickpolicy == "catchup":
        yield "driftfix=slew"
    elif timer.tickpolicy in ("merge", "discard"):
        raise _tickpolicy(timer)


def _timer(b: ClassicBuild, timer: Timer) -> Iterator[Option]:
    rule = "a timer of the document"
    if timer.name in ("platform", "tsc"):
        raise error.unsupported(
            f"unsupported timer type (name) '{timer.name}'", timer.node, "pit, rtc or hpet"
        )
    if timer.name == "hpet":
        if timer.present is False and b.has("no-hpet"):
            yield b.option("-no-hpet", None, timer.node, rule)
        return
    if timer.name == "rtc":
        if not b.has("rtc") and timer.tickpolicy == "catchup" and b.has("rtc-td-hack"):
            yield b.option("-rtc-td-hack", None, timer.node, rule)
        elif not b.has("rtc") and timer.tickpolicy in ("merge", "discard"):
            raise _tickpolicy(timer)
        return
    if timer.tickpolicy in (None, "delay"):
        if b.has("no-kvm-pit"):
            yield b.option("-no-kvm-pit-reinjection", None, timer.node, rule)
    elif timer.tickpolicy != "catchup":
        raise _tickpolicy(timer)
    elif not b.has("no-kvm-pit"):
        if not b.has("tdf"):
            raise _tickpolicy(timer)
        yield b.option("-tdf", None, timer.node, rule)


def _tickpolicy(timer: Timer) -> Exception:
    return error.unsupported(
        f"unsupported {timer.name} tickpolicy '{timer.tickpolicy}'",
        timer.node,
        "delay, or catchup where it is known",
    )


# -- power and boot ------------------------------------------------------------------------------------------


def power_options(b: ClassicBuild) -> Iterator[Option]:
    domain = b.domain
    if b.has("no-reboot") and domain.on_reboot != "restart":
        yield b.option("-no-reboot", None, domain.node.child("on_reboot"), "a reboot ends this guest")
    features = domain.features
    if features is None or not features.acpi:
        yield b.option("-no-acpi", None, domain.node.child("features"), "ACPI is not asked for")


def boot_options(b: ClassicBuild) -> Iterator[Option]:
    domain = b.domain
    if domain.bootloader is not None:
        yield b.option(
            "-bootloader", domain.bootloader, domain.node.child("bootloader"), "it finds the kernel"
        )
        return
    os = domain.os
    assert os is not None, "filled in when the domain was read"
    if os.loader and not b.letter:
        yield b.option("-bios", os.loader, os.node.child("loader"), "the firmware of the document")
    letters = "".join(BOOT_LETTERS[boot.dev] for boot in os.boots if boot.dev)
    if letters:
        yield b.option("-boot", letters, os.node.child("boot"), "where to boot from, first to last")
    for flag, tag, value in (
        ("-kernel", "kernel", os.kernel),
        ("-initrd", "initrd", os.initrd),
        ("-append", "cmdline", os.cmdline),
    ):
        if value:
            yield b.option(flag, value, os.node.child(tag), "the guest is booted straight into a kernel")


#: kind of incoming migration → the capability that it needs
_INCOMING = {"tcp": "migrate-qemu-tcp", "exec": "migrate-qemu-exec"}


def incoming_options(b: ClassicBuild) -> Iterator[Option]:
    """Where the guest migrates in from.  Raises ``ConfigError`` where this QEMU can not."""
    source = b.incoming
    if not source:
        return
    if source == "stdio":
        if b.has("migrate-qemu-exec"):
            source = "exec:cat"
        elif not b.has("migrate-kvm-stdio"):
            raise error.unsupported(
                "STDIO migration is not supported with this QEMU binary",
                b.domain.node,
                "another way of migration, such as tcp:",
            )
    else:
        kind = next((kind for kind in _INCOMING if source.startswith(kind)), "")
        if kind and not b.has(_INCOMING[kind]):
            raise error.unsupported(
                f"{kind.upper()} migration is not supported with this QEMU binary",
                b.domain.node,
                "another way of migration, such as tcp:",
            )
    yield b.option("-incoming", source, None, "the guest migrates in from there")


def snapshot_options(b: ClassicBuild) -> Iterator[Option]:
    if b.snapshot:
        yield b.option("-loadvm", b.snapshot, None, "the guest goes on from a snapshot")


def passthrough_options(b: ClassicBuild) -> Iterator[Option]:
    commandline = b.domain.commandline
    for argument in commandline.arguments if commandline is not None else ():
        yield b.option(argument.value, None, argument.node, "given as it is in the document")
