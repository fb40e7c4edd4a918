"""``<cpu>``: defaults, what a start makes of it, ``-cpu``."""

from __future__ import annotations

import pytest

from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError
from qemushim.guest import Guest
from qemushim.host import CpuDefinition, Host
from qemushim.machine.cpuhost import NEVER_PASSED, host_cpus

ARM = Emulator.recorded("8.2.0", "aarch64")
LATEST = Emulator.recorded("10.0.0")
OLD = Emulator.recorded("6.2.0")
POWER = Emulator.recorded("7.1.0", "ppc64")
S390 = Emulator.recorded("10.0.0", "s390x")

MACHINES = {"aarch64": "virt", "ppc64": "pseries", "s390x": "s390-ccw-virtio", "x86_64": "pc"}
#: a host with a CPU of its own
NEHALEM = Host.nominal()._replace(cpu=CpuDefinition("Nehalem", "Intel", ("ds", "cmt", "invtsc")))


def guest(cpu: str, arch: str = "x86_64", virt: str = "kvm", machine: str = "", rest: str = "") -> Guest:
    return Guest.from_xml(
        f"""<domain type='{virt}'><name>g</name><uuid>2d1f1aee-8a8c-4b2e-9a5b-0d7a3a0f1c11</uuid>
<memory unit='MiB'>512</memory><vcpu>1</vcpu>
<os><type arch='{arch}' machine='{machine or MACHINES[arch]}'>hvm</type></os>
{cpu}{rest}<devices><controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"""
    )


def stored(cpu: str, emulator: Emulator = LATEST, virt: str = "kvm", host: Host | None = None) -> str:
    defined = guest(cpu, emulator.arch, virt).define(emulator, host or Host.nominal(emulator.arch))
    lines = defined.to_xml().splitlines()
    inside = [i for i, line in enumerate(lines) if line.startswith(("  <cpu", "  </cpu"))]
    return "".join(line.strip() for line in lines[inside[0] : inside[-1] + 1]) if inside else ""


def option(
    cpu: str,
    emulator: Emulator = LATEST,
    virt: str = "kvm",
    host: Host | None = None,
    rest: str = "",
    incoming: str = "",
) -> str:
    made = guest(cpu, emulator.arch, virt, rest=rest)
    tokens = made.command(emulator, host or Host.nominal(emulator.arch), incoming=incoming).tokens
    return tokens[tokens.index("-cpu") + 1] if "-cpu" in tokens else ""


# -- defaults ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("emulator", "virt", "want"),
    [
        (LATEST, "kvm", "qemu64"),
        (LATEST, "qemu", "qemu64"),
        (ARM, "qemu", "cortex-a15"),
        (POWER, "qemu", "POWER9"),
        (S390, "qemu", "qemu"),
    ],
)
def test_the_machine_brings_a_cpu(emulator: Emulator, virt: str, want: str) -> None:
    model = f"<model fallback='forbid'>{want}</model>"
    assert stored("", emulator, virt) == f"<cpu mode='custom' match='exact' check='none'>{model}</cpu>"


def test_accelerated_guests_whose_default_is_the_host() -> None:
    assert stored("", ARM) == ""
    assert stored("", S390) == "<cpu mode='host-model' check='partial'/>"


def test_a_topology_alone_leaves_the_model_open() -> None:
    got = stored("<cpu><topology sockets='1' cores='1' threads='1'/></cpu>", ARM)
    assert got == "<cpu><topology sockets='1' dies='1' clusters='1' cores='1' threads='1'/></cpu>"


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ("<cpu mode='host-passthrough'/>", "<cpu mode='host-passthrough' check='none' migratable='on'/>"),
        ("<cpu mode='maximum'/>", "<cpu mode='maximum' check='none'/>"),
        (
            "<cpu mode='host-model'><model fallback='forbid'/></cpu>",
            "<cpu mode='host-model' check='partial'/>",
        ),
        (
            "<cpu><feature name='vmx'/><model>Nehalem</model></cpu>",
            (
                "<cpu mode='custom' match='exact' check='partial'><model fallback='allow'>Nehalem</model>"
                "<feature policy='require' name='vmx'/></cpu>"
            ),
        ),
    ],
)
def test_what_is_left_out_is_filled_in(given: str, want: str) -> None:
    assert stored(given) == want
    assert stored(want) == want


def test_vector_lengths_need_vectors() -> None:
    got = stored("<cpu mode='host-passthrough'><feature name='sve256' policy='require'/></cpu>", ARM)
    assert got.endswith(
        "<feature policy='require' name='sve256'/><feature policy='require' name='sve'/></cpu>"
    )
    without = (
        "<cpu mode='host-passthrough'><feature name='sve' policy='forbid'/><feature name='sve256'/></cpu>"
    )
    with pytest.raises(ConfigError, match="SVE disabled, but SVE vector lengths provided"):
        stored(without, ARM)


# -- -cpu ----------------------------------------------------------------------------------------------------


def test_host_model_becomes_what_the_recorded_host_can_give() -> None:
    model, *features = option("<cpu mode='host-model'/>").split(",")
    assert model in {m.name for m in LATEST.accelerators[0].cpus}
    assert "x2apic=on" in features
    assert "invtsc=on" not in features, "such a guest could not migrate"


def test_the_document_has_the_last_word_over_host_model() -> None:
    cpu = "<cpu mode='host-model'><feature name='x2apic' policy='disable'/><feature name='vme'/></cpu>"
    plain = option("<cpu mode='host-model'/>").split(",")
    changed = option(cpu).split(",")
    assert [p.replace("x2apic=on", "x2apic=off") for p in plain] == changed[: len(plain)]
    assert changed[len(plain) :] == ["vme=on"]


def test_host_model_of_a_host_that_qemu_says_nothing_of() -> None:
    silent = LATEST._replace(accelerators=tuple(a._replace(host_cpu=None) for a in LATEST.accelerators))
    assert option("<cpu mode='host-model'/>", silent, host=NEHALEM) == "Nehalem,ds=on"
    minimum = "<cpu match='minimum'><model>486</model><feature name='pae' policy='disable'/></cpu>"
    assert option(minimum, silent, host=NEHALEM) == "Nehalem,ds=on,pae=off"


def test_optional_features_follow_the_host() -> None:
    cpu = (
        "<cpu check='none'><model>qemu64</model><feature name='ds' policy='optional'/>"
        "<feature name='avx' policy='optional'/></cpu>"
    )
    silent = LATEST._replace(accelerators=tuple(a._replace(host_cpu=None) for a in LATEST.accelerators))
    assert option(cpu, silent, host=NEHALEM) == "qemu64,ds=on,avx=off"


def test_features_that_a_model_lost() -> None:
    cpu = "<cpu check='none'><model>Skylake-Server</model></cpu>"
    assert option(cpu) == "Skylake-Server,mpx=off"
    assert option(cpu, incoming="tcp:127.0.0.1:4444") == "Skylake-Server,mpx=on"
    kept = "<cpu check='none'><model>Skylake-Server</model><feature name='mpx'/></cpu>"
    assert option(kept) == "Skylake-Server,mpx=on"


def test_features_are_spelled_as_qemu_does() -> None:
    cpu = "<cpu check='none'><model>qemu64</model><feature name='lahf_lm'/><feature name='pclmuldq'/></cpu>"
    assert option(cpu) == "qemu64,lahf-lm=on,pclmulqdq=on"


def test_features_that_are_not_qemus_to_give_are_left_out() -> None:
    features = "".join(f"<feature name='{name}'/>" for name in sorted(NEVER_PASSED))
    assert option(f"<cpu check='none'><model>qemu64</model>{features}</cpu>") == "qemu64"


def test_a_model_that_qemu_lacks() -> None:
    newer = "<cpu check='none'><model fallback='{}'>SierraForest</model></cpu>"
    assert option(newer.format("forbid")).startswith("SierraForest")
    with pytest.raises(ConfigError, match="CPU model SierraForest is not supported by hypervisor"):
        option(newer.format("forbid"), OLD)
    instead = option(newer.format("allow"), OLD).split(",")
    assert instead[0] in {m.name for m in OLD.accelerators[0].cpus}


def test_deprecated_features() -> None:
    off = "<cpu mode='host-model' deprecated_features='off'/>"
    switched = option(off, S390).split(",")
    host = S390.accelerators[0].host_cpu
    assert host is not None
    assert host.deprecated
    assert {f"{name}=off" for name in host.deprecated} <= set(switched)
    with pytest.raises(ConfigError, match="toggling deprecated features for CPU model is unsupported"):
        option(off)


def test_power_by_compatibility() -> None:
    cpu = "<cpu mode='host-model'><model>power9</model></cpu>"
    host = Host.nominal("ppc64")._replace(cpu=CpuDefinition("POWER9"))
    assert option(cpu, POWER, host=host) == "host"
    with pytest.raises(ConfigError, match=r"^the CPU is incompatible with host CPU$"):
        option(cpu, POWER, host=host._replace(cpu=CpuDefinition("POWER8")))


@pytest.mark.parametrize(
    ("rest", "want"),
    [
        ("<features><pvspinlock/><apic eoi='on'/></features>", "kvm-pv-eoi=on,kvm-pv-unhalt=on"),
        ("<clock offset='utc'><timer name='tsc' frequency='1000000'/></clock>", "tsc-frequency=1000000"),
        (
            (
                "<features><hyperv><spinlocks state='on' retries='8191'/><relaxed state='on'/>"
                "<vapic state='off'/></hyperv></features>"
            ),
            "hv-relaxed=on,hv-spinlocks=0x1fff",
        ),
        (
            "<features><kvm><hidden state='on'/><pv-ipi state='off'/></kvm></features>",
            "kvm=off,kvm-pv-ipi=off",
        ),
        ("<features><pmu state='off'/></features>", "pmu=off"),
    ],
)
def test_what_other_elements_ask_of_the_cpu(rest: str, want: str) -> None:
    assert option("", rest=rest) == f"qemu64,{want}"


@pytest.mark.parametrize(
    ("inside", "want"),
    [
        ("<cache mode='emulate' level='3'/>", "l3-cache=on,host-cache-info=off"),
        ("<cache mode='passthrough'/>", "host-cache-info=on,l3-cache=off"),
        ("<cache mode='disable'/>", "host-cache-info=off,l3-cache=off"),
        ("<maxphysaddr mode='passthrough' limit='40'/>", "host-phys-bits=on,host-phys-bits-limit=40"),
        ("<maxphysaddr mode='emulate' bits='40'/>", "phys-bits=40"),
    ],
)
def test_cache_and_address_size(inside: str, want: str) -> None:
    cpu = f"<cpu mode='host-passthrough'>{inside}</cpu>"
    assert option(cpu) == f"host,migratable=on,{want}"


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpu", "message"),
    [
        ("<cpu><feature name='vme'/></cpu>", "XML error: Non-empty feature list specified without CPU model"),
        (
            "<cpu><model>486</model><feature name='vme'/><feature name='vme'/></cpu>",
            "XML error: CPU feature 'vme' specified more than once",
        ),
        (
            "<cpu mode='host-model'><cache mode='emulate' level='2'/></cpu>",
            "unsupported configuration: CPU cache mode 'emulate' can only be used with level='3'",
        ),
        (
            "<cpu mode='maximum'><cache mode='disable' level='3'/></cpu>",
            "unsupported configuration: unsupported CPU cache level for mode 'disable'",
        ),
        (
            "<cpu mode='host-model'><cache mode='passthrough'/></cpu>",
            (
                "unsupported configuration: CPU cache mode 'passthrough' can only be used with "
                "'host-passthrough' / 'maximum' CPUs"
            ),
        ),
        (
            "<cpu mode='maximum'><maxphysaddr mode='passthrough' bits='40'/></cpu>",
            (
                "unsupported configuration: CPU maximum physical address bits number specification cannot be "
                "used with mode='passthrough'"
            ),
        ),
    ],
)
def test_what_can_not_be(cpu: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        stored(cpu)
    assert str(caught.value) == message
    assert caught.value.line


def test_modes_need_the_right_host() -> None:
    with pytest.raises(ConfigError) as caught:
        option("<cpu mode='host-passthrough'/>", virt="qemu")
    assert str(caught.value) == (
        "unsupported configuration: CPU mode 'host-passthrough' for x86_64 qemu domain on x86_64 host is not "
        "supported by hypervisor"
    )
    with pytest.raises(ConfigError, match="CPU mode 'host-model' for aarch64 kvm domain on aarch64 host"):
        option("<cpu mode='host-model'/>", ARM)


def test_a_partial_check_compares_with_the_host() -> None:
    silent = LATEST._replace(accelerators=tuple(a._replace(host_cpu=None) for a in LATEST.accelerators))
    fits = "<cpu><model>Penryn</model></cpu>"
    assert option(fits, silent, host=NEHALEM) == "Penryn"
    more = "<cpu><model>Penryn</model><feature name='avx'/><feature name='aes'/></cpu>"
    with pytest.raises(ConfigError, match=r"Host CPU does not provide required features: aes, avx$"):
        option(more, silent, host=NEHALEM)
    with pytest.raises(ConfigError, match="Host CPU provides forbidden features: ds"):
        option("<cpu><model>Penryn</model><feature name='ds' policy='forbid'/></cpu>", silent, host=NEHALEM)
    # where the host's own CPU is not known there is nothing to compare with
    assert option(more, silent) == "Penryn,avx=on,aes=on"


def test_arm_features_are_a_closed_list() -> None:
    with pytest.raises(ConfigError, match="unknown CPU feature: flying"):
        option("<cpu mode='host-passthrough'><feature name='flying'/></cpu>", ARM)


def test_the_host_is_looked_at_once() -> None:
    from qemushim.context import Define

    c = Define(guest("").domain, LATEST, Host.nominal())
    assert host_cpus(c) is host_cpus(c)
