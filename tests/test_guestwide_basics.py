"""What every guest gets: environment, name, machine, memory, clock, boot; and what few ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemushim.document.units import canonical_uuid
from qemushim.errors import ConfigError
from qemushim.guest import Guest
from qemushim.host import Host
from qemushim.machine.clock import calendar
from tests.guestwide import (
    ARM,
    HOST,
    LATEST,
    OLD,
    POWER,
    RISCV,
    S390,
    SEVEN,
    UUID,
    document,
    element,
    failed_start,
    refusal,
    stored,
    tokens,
    value,
    values,
)

ID_CHANGED = "<qemu:frontend><qemu:property name='id'/></qemu:frontend>"
FOLDER = "/var/lib/libvirt/qemu/domain--1-g"


def test_ordinary_guest_comes_out_whole() -> None:
    argv = tokens()
    assert argv[: argv.index("-machine")] == [
        "LC_ALL=C",
        "PATH=/bin",
        "USER=me",
        f"HOME={FOLDER}",
        f"XDG_DATA_HOME={FOLDER}/.local/share",
        f"XDG_CACHE_HOME={FOLDER}/.cache",
        f"XDG_CONFIG_HOME={FOLDER}/.config",
        "/usr/bin/qemu-system-x86_64",
        "-name",
        "guest=g,debug-threads=on",
        "-S",
        "-object",
        f'{{"qom-type":"secret","id":"masterKey0","format":"raw","file":"{FOLDER}/master-key.aes"}}',
    ]
    machine = LATEST.canonical_machine("pc")
    assert value("-machine", argv) == f"{machine},usb=off,dump-guest-core=off,memory-backend=pc.ram,acpi=off"
    assert value("-accel", argv) == "tcg"
    assert value("-m", argv) == "size=262144k"
    assert '{"qom-type":"memory-backend-ram","id":"pc.ram","size":268435456}' in argv
    assert value("-overcommit", argv) == "mem-lock=off"
    assert value("-uuid", argv) == UUID
    for flag in ("-no-user-config", "-nodefaults", "-no-shutdown"):
        assert flag in argv
    assert value("-display", argv) == "none"
    assert value("-mon", argv) == "chardev=charmonitor,id=monitor,mode=control"
    assert value("-rtc", argv) == "base=utc"
    assert value("-boot", argv) == "strict=on"
    assert value("-sandbox", argv).startswith("on,obsolete=deny")
    assert value("-msg", argv) == "timestamp=on"


def test_always_written() -> None:
    text = stored()
    for line in (
        f"  <uuid>{UUID}</uuid>",
        "  <memory unit='KiB'>262144</memory>",
        "  <currentMemory unit='KiB'>262144</currentMemory>",
        "    <boot dev='hd'/>",
        "  <clock offset='utc'/>",
        "  <on_poweroff>destroy</on_poweroff>",
        "  <on_reboot>restart</on_reboot>",
        "  <on_crash>destroy</on_crash>",
        "    <emulator>/usr/bin/qemu-system-x86_64</emulator>",
    ):
        assert line + "\n" in text
    assert "xmlns:qemu" not in text


def test_unprivileged_keeps_the_users_home() -> None:
    host = HOST._replace(privileged=False, environment={"HOME": "/home/me"})
    argv = tokens(host=host)
    assert argv[:3] == ["LC_ALL=C", "HOME=/home/me", f"XDG_CACHE_HOME={FOLDER}/.cache"]


def test_name_is_escaped_and_cut() -> None:
    argv = tokens(name="a,b")
    assert value("-name", argv) == "guest=a,,b,debug-threads=on"
    long = tokens(name="n" * 30)
    assert f"HOME=/var/lib/libvirt/qemu/domain--1-{'n' * 20}" in long
    process = HOST._replace(config=HOST.config._replace(set_process_name=True))
    assert value("-name", tokens(host=process)) == "guest=g,process=qemu:g,debug-threads=on"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "missing name information"),
        ("a/b", "XML error: name a/b cannot contain '/'"),
    ],
)
def test_bad_names(name: str, message: str) -> None:
    assert refusal(name=name) == message


def test_title_is_one_line() -> None:
    assert refusal("<title>a\nb</title>") == "XML error: Domain title can't contain newlines"
    assert element(stored("<title>a &amp; b</title>"), "title") == "<title>a &amp; b</title>"


def test_machine_defaults_and_aliases() -> None:
    bare = document().replace(" machine='pc'", "").replace(" arch='x86_64'", "")
    text = Guest.from_xml(bare).define(LATEST, HOST).to_xml()
    assert f"<type arch='x86_64' machine='{LATEST.canonical_machine('pc')}'>hvm</type>" in text


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"virt": "xen"}, "does not support virt type 'xen'"),
        ({"machine": "pdp11"}, "does not support machine type 'pdp11'"),
    ],
)
def test_emulator_can_not(parts: dict[str, str], message: str) -> None:
    emulator = "/usr/bin/qemu-system-x86_64"
    assert refusal(**parts) == f"unsupported configuration: Emulator '{emulator}' {message}"


def test_wrong_architecture() -> None:
    text = document(arch="sparc", machine="SS-5")
    with pytest.raises(Exception, match="does not support arch 'sparc'"):
        Guest.from_xml(text).define(LATEST, HOST)


def test_genid_is_made_once() -> None:
    host = HOST._replace(new_uuid=lambda purpose: "11111111-2222-4333-8444-555555555555")
    assert "<genid>11111111-2222-4333-8444-555555555555</genid>" in stored("<genid/>", host=host)
    given = "<genid>0F0E0D0C0B0A49088706050403020100</genid>"
    argv = tokens(given)
    assert '{"driver":"vmgenid","guid":"0f0e0d0c-0b0a-4908-8706-050403020100","id":"vmgenid0"}' in argv


# -- clock ------------------------------------------------------------


@pytest.mark.parametrize(
    ("clock", "written", "base"),
    [
        ("<clock offset='localtime'/>", "<clock offset='localtime'/>", "base=localtime"),
        (
            "<clock offset='utc' adjustment='60'/>",
            "<clock offset='variable' adjustment='60' basis='utc'/>",
            "base=1970-01-02T00:01:00",
        ),
        ("<clock offset='utc' adjustment='reset'/>", "<clock offset='utc' adjustment='reset'/>", "base=utc"),
        (
            "<clock offset='variable' timezone='x'/>",
            "<clock offset='variable' adjustment='0' basis='utc'/>",
            "base=1970-01-02T00:00:00",
        ),
        (
            "<clock offset='absolute' start='253402300800'/>",
            "<clock offset='absolute' start='253402300800'/>",
            "base=10000-01-01T00:00:00",
        ),
        (
            "<clock offset='utc'><timer name='rtc' track='guest' tickpolicy='catchup'/></clock>",
            "<clock offset='utc'><timer name='rtc' tickpolicy='catchup' track='guest'/></clock>",
            "base=utc,clock=vm,driftfix=slew",
        ),
    ],
)
def test_clock(clock: str, written: str, base: str) -> None:
    assert element(stored(clock), "clock") == written
    assert value("-rtc", tokens(clock)) == base


def test_timezone_is_in_the_environment() -> None:
    argv = tokens("<clock offset='timezone' timezone='Asia/Tokyo'/>")
    assert "TZ=Asia/Tokyo" in argv
    assert value("-rtc", argv) == "base=localtime"


@given(st.integers(0, 200_000_000_000))
def test_calendar_goes_on(seconds: int) -> None:
    from datetime import datetime, timedelta

    shown = calendar(seconds)
    if seconds < 250_000_000_000:
        assert shown == (datetime(1970, 1, 1) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


def test_hpet_by_version() -> None:
    clock = "<clock offset='utc'><timer name='hpet' present='no'/></clock>"
    assert "hpet=off" in value("-machine", tokens(clock))
    argv = tokens(clock, SEVEN)
    assert "-no-hpet" in argv
    assert "hpet" not in value("-machine", argv)


@pytest.mark.parametrize(
    ("timer", "emulator", "message"),
    [
        (
            "name='tsc' present='yes'",
            S390,
            "Configuring the 'tsc' timer is not supported for virtType=qemu arch=s390x",
        ),
        ("name='armvtimer'", ARM, "Configuring the 'armvtimer' timer is not supported for virtType=qemu"),
        ("name='rtc' track='boot'", LATEST, "unsupported rtc timer track 'boot'"),
        ("name='pit' tickpolicy='merge'", LATEST, "unsupported pit tickpolicy 'merge'"),
        ("name='platform'", LATEST, "unsupported timer type (name) 'platform'"),
    ],
)
def test_timers_that_can_not_be(timer: str, emulator: object, message: str) -> None:
    text = refusal(f"<clock offset='utc'><timer {timer}/></clock>", emulator)  # type: ignore[arg-type]
    assert text.startswith(f"unsupported configuration: {message}")


# -- power, lifecycle, tuning ------------------------------------------------------------


def test_sleep_states() -> None:
    power = "<pm><suspend-to-disk enabled='no'/><suspend-to-mem enabled='yes'/></pm>"
    assert element(stored(power), "pm") == (
        "<pm><suspend-to-mem enabled='yes'/><suspend-to-disk enabled='no'/></pm>"
    )
    assert values("-global", tokens(power)) == ["PIIX4_PM.disable_s3=0", "PIIX4_PM.disable_s4=1"]
    q35 = values("-global", tokens(power, machine="q35"))
    assert q35[:2] == ["ICH9-LPC.disable_s3=0", "ICH9-LPC.disable_s4=1"]
    assert refusal(power, ARM) == "unsupported configuration: setting ACPI S3/S4 not supported"


def test_acpi_before_there_was_a_property() -> None:
    assert "-no-acpi" in tokens(emulator=SEVEN)
    assert "-no-acpi" not in tokens("<features><acpi/></features>", SEVEN)
    assert "-no-acpi" not in tokens()


def test_lifecycle() -> None:
    assert (
        refusal("<on_crash>explode</on_crash>")
        == "unsupported configuration: unknown on_crash action: explode"
    )
    assert "preserve" in refusal("<on_reboot>preserve</on_reboot>")


def test_limits_of_memory() -> None:
    limits = (
        "<memtune><hard_limit unit='MB'>1</hard_limit><soft_limit>9007199254740991</soft_limit>"
        "<swap_hard_limit unit='b'>1025</swap_hard_limit></memtune>"
    )
    assert element(stored(limits), "memtune") == (
        "<memtune><hard_limit unit='KiB'>977</hard_limit><swap_hard_limit "
        "unit='KiB'>2</swap_hard_limit></memtune>"
    )
    assert "min_guarantee" in refusal("<memtune><min_guarantee>1</min_guarantee></memtune>")


def test_block_io_of_nothing_is_dropped() -> None:
    tune = "<blkiotune><weight>500</weight><device><path>/dev/sda</path></device></blkiotune>"
    assert element(stored(tune), "blkiotune") == "<blkiotune><weight>500</weight></blkiotune>"


def test_perf_and_idmap_are_ordered() -> None:
    perf = "<perf><event name='cpu_clock' enabled='no'/><event name='cmt' enabled='yes'/></perf>"
    assert element(stored(perf), "perf") == (
        "<perf><event name='cmt' enabled='yes'/><event name='cpu_clock' enabled='no'/></perf>"
    )
    ids = (
        "<idmap><uid start='9' target='2000' count='1'/><uid start='0' target='1000' count='9'/>"
        "<gid start='0' target='1' count='1'/></idmap>"
    )
    assert "<uid start='0' target='1000' count='9'/><uid start='9'" in element(stored(ids), "idmap")


# -- SMBIOS ------------------------------------------------------------


def test_smbios_tables() -> None:
    told = (
        "<sysinfo type='smbios'><system><entry name='version'>2, b</entry>"
        "<entry name='product'>P</entry></system>"
        "<bios><entry name='date'>02/29/24</entry></bios><chassis/>"
        "<baseBoard><entry name='serial'>7</entry></baseBoard>"
        "<oemStrings><entry>one</entry><entry>x=1,y=2</entry></oemStrings></sysinfo>"
    )
    text = element(stored(told, os="<smbios mode='sysinfo'/>"), "sysinfo")
    assert text.startswith("<sysinfo type='smbios'><bios><entry name='date'>02/29/24</entry></bios><system>")
    assert "<entry name='product'>P</entry><entry name='version'>2, b</entry>" in text
    assert "chassis" not in text
    assert values("-smbios", tokens(told, os="<smbios mode='sysinfo'/>")) == [
        "type=0,date=02/29/24",
        "type=1,product=P,version=2,, b",
        "type=2,manufacturer=,serial=7",
        "type=11,value=one,value=x=1,,y=2",
    ]
    assert values("-smbios", tokens(told)) == []


def test_smbios_refusals() -> None:
    bios = "<sysinfo type='smbios'><bios><entry name='date'>13/1/2020</entry></bios></sysinfo>"
    assert refusal(bios) == "Invalid BIOS 'date' format"
    other = "<sysinfo type='smbios'><system><entry name='uuid'>" + "0" * 32 + "</entry></system></sysinfo>"
    assert refusal(other) == "UUID mismatch between <uuid> and <sysinfo>"
    boards = "<baseBoard><entry name='serial'>1</entry></baseBoard>" * 2
    message = failed_start(f"<sysinfo type='smbios'>{boards}</sysinfo>", os="<smbios mode='sysinfo'/>")
    assert message == (
        "unsupported configuration: qemu does not support more than one entry to Type 2 in SMBIOS table"
    )


def test_firmware_configuration() -> None:
    told = "<sysinfo type='fwcfg'><entry name='a'>1 &lt; 2</entry><entry name='b' file='/f,g'/></sysinfo>"
    assert element(stored(told), "sysinfo") == told
    assert values("-fw_cfg", tokens(told)) == ["name=a,string=1 &lt; 2", "name=b,file=/f,g"]


# -- the namespace of QEMU's own ------------------------------------------------------------


def test_namespace_under_another_name() -> None:
    uri = "http://libvirt.org/schemas/domain/qemu/1.0"
    text = document().replace("xmlns:qemu", "xmlns:q")
    text = text.replace(
        "<devices>", f"<q:commandline xmlns:q='{uri}'><q:arg value='-x'/></q:commandline><devices>"
    )
    guest = Guest.from_xml(text)
    kept = Guest.from_xml(guest.to_xml("keep"))
    for one in (guest, kept):
        assert "<qemu:arg value='-x'/>" in one.define(LATEST, HOST).to_xml()


def test_passed_through() -> None:
    inside = (
        "<qemu:commandline><qemu:arg value='-foo'/><qemu:arg value='bar'/>"
        "<qemu:env name='E'/></qemu:commandline>"
        "<qemu:deprecation behavior='reject'/>"
    )
    argv = tokens(inside)
    assert "E=" in argv
    assert argv[argv.index("-foo") + 1 : argv.index("-foo") + 3] == ["bar", "-sandbox"]
    assert value("-compat", argv) == '{"deprecated-output":"hide","deprecated-input":"reject"}'
    text = stored(inside)
    assert text.startswith("<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>")
    assert "<qemu:env name='E'/>" in text


def test_namespace_without_a_prefix() -> None:
    inside = "<commandline xmlns='http://libvirt.org/schemas/domain/qemu/1.0'><arg value='-x'/></commandline>"
    assert "-x" in tokens(inside)
    assert "<qemu:arg value='-x'/>" in stored(inside)


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        ("<qemu:commandline><qemu:env name='1A'/></qemu:commandline>", "must begin with a letter"),
        ("<qemu:commandline><qemu:env name='A-B'/></qemu:commandline>", "only alphanumerics"),
        ("<qemu:commandline><qemu:arg/></qemu:commandline>", "No qemu command-line argument specified"),
        (
            f"<qemu:override><qemu:device alias='a'>{ID_CHANGED}</qemu:device></qemu:override>",
            "'id' property can't be overriden",
        ),
    ],
)
def test_namespace_refusals(inside: str, words: str) -> None:
    assert words in refusal(inside)


def test_denied_capability() -> None:
    inside = "<qemu:capabilities><qemu:del capability='set-action'/></qemu:capabilities>"
    inside += "<on_reboot>destroy</on_reboot>"
    assert "-no-reboot" in tokens(inside)


def test_metadata_has_one_element_for_each_namespace() -> None:
    inside = "<a:x xmlns:a='urn:a'>1</a:x><b xmlns='urn:b'><c/></b><z:y xmlns:z='urn:a'/><bare/>"
    assert element(stored(f"<metadata>{inside}</metadata>"), "metadata") == (
        '<metadata><a:x xmlns:a="urn:a">1</a:x><b xmlns="urn:b"><c/></b></metadata>'
    )


# -- security ------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "written"),
    [
        ("<seclabel type='none'/>", "<seclabel type='none' model='none'/>"),
        ("<seclabel type='dynamic' relabel='yes'/>", "<seclabel type='none' model='none'/>"),
        (
            "<seclabel type='dynamic' model='selinux'/>",
            "<seclabel type='dynamic' model='selinux' relabel='yes'/>",
        ),
        (
            "<seclabel type='static' model='dac'><label>1:2</label><imagelabel>x</imagelabel></seclabel>",
            "<seclabel type='static' model='dac' relabel='no'><label>1:2</label></seclabel>",
        ),
    ],
)
def test_labels(label: str, written: str) -> None:
    assert element(stored(label), "seclabel") == written


def test_label_refusals() -> None:
    one = "<seclabel model='dac'/>"
    assert refusal(one * 2) == "seclabel for model dac is already provided"
    assert "<seclabel" not in stored(one)
    for unnamed in ("<seclabel relabel='yes'/>", "<seclabel type='static'><label>x</label></seclabel>"):
        assert refusal(unnamed) == "XML error: missing security model in domain seclabel"
    assert refusal("<seclabel type='static' model='dac'/>") == "XML error: security label is missing"


def test_keys_of_s390() -> None:
    keys = "<keywrap><cipher name='dea' state='off'/><cipher name='aes' state='on'/></keywrap>"
    assert ",usb=off,aes-key-wrap=on,dea-key-wrap=off," in value("-machine", tokens(keys, S390))
    with pytest.raises(ConfigError, match="key wrap support is only available on S390 guests"):
        tokens(keys)


def test_secret_memory() -> None:
    emulator = LATEST.with_flags(add=("sev-guest", "sev-snp-guest"))
    sev = "<launchSecurity type='sev'><policy>5</policy><cbitpos>47</cbitpos>"
    sev += "<reducedPhysBits>1</reducedPhysBits>"
    argv = tokens(sev + "<dhCert>AA</dhCert></launchSecurity>", emulator)
    assert argv[argv.index("-sandbox") - 1] == (
        '{"qom-type":"sev-guest","id":"lsec0","cbitpos":47,"reduced-phys-bits":1,"policy":5,'
        f'"dh-cert-file":"{FOLDER}/dh_cert.base64"}}'
    )
    assert "confidential-guest-support=lsec0" in value("-machine", argv)
    snp = (
        "<launchSecurity type='sev-snp' vcek='no' kernelHashes='yes' authorKey='yes'><idAuth>b</idAuth>"
        "<policy>0x30000</policy><cbitpos>51</cbitpos><reducedPhysBits>1</reducedPhysBits></launchSecurity>"
    )
    text = element(stored(snp, emulator), "launchSecurity")
    assert text == (
        "<launchSecurity type='sev-snp' kernelHashes='yes' authorKey='yes' vcek='no'><cbitpos>51</cbitpos>"
        "<reducedPhysBits>1</reducedPhysBits><policy>0x00030000</policy><idAuth>b</idAuth></launchSecurity>"
    )
    made = (
        '"kernel-hashes":true,"policy":196608,"id-auth":"b","author-key-enabled":true,"vcek-disabled":true}'
    )
    assert any(made in token for token in tokens(snp, emulator))
    assert refusal(sev + "</launchSecurity>") == (
        "unsupported configuration: 'sev' launch security is not supported with this QEMU binary"
    )


def test_protected_virtualization() -> None:
    told = "<launchSecurity type='s390-pv'><policy>1</policy></launchSecurity>"
    assert element(stored(told, S390), "launchSecurity") == "<launchSecurity type='s390-pv'/>"
    assert '{"qom-type":"s390-pv-guest","id":"lsec0"}' in tokens(told, S390)


# -- features ------------------------------------------------------------


def test_features_are_ordered_and_filled() -> None:
    told = (
        "<features><vmport/><kvm><dirty-ring state='off' size='4096'/><hidden "
        "state='on'/></kvm><apic eoi='on'/>"
        "<hyperv><vendor_id state='off' value='x'/><spinlocks state='on' retries='8191'/></hyperv>"
        "<hpt/><async-teardown/><acpi/></features>"
    )
    assert element(stored(told.replace("<hpt/>", "")), "features") == (
        "<features><acpi/><apic eoi='on'/><hyperv mode='custom'><spinlocks state='on' retries='8191'/>"
        "<vendor_id state='off'/></hyperv><kvm><hidden state='on'/><dirty-ring state='off'/></kvm>"
        "<vmport state='on'/><async-teardown enabled='yes'/></features>"
    )
    assert element(stored("<features></features>"), "features") == ""


def test_features_of_pseries() -> None:
    told = (
        "<features><ibs value='fixed-na'/><hpt resizing='enabled'><maxpagesize "
        "unit='MiB'>16</maxpagesize></hpt>"
        "<htm state='off'/><nested-hv state='on'/></features>"
    )
    assert "<maxpagesize unit='KiB'>16384</maxpagesize>" in stored(told, POWER)
    assert (
        ",usb=off,resize-hpt=enabled,cap-hpt-max-page-size=16384k,cap-htm=off,"
        "cap-nested-hv=on,cap-ibs=fixed-na" in (value("-machine", tokens(told, POWER)))
    )
    assert refusal(told) == (
        "unsupported configuration: The 'hpt' feature is not supported for "
        "architecture 'x86_64' or machine type "
        f"'{LATEST.canonical_machine('pc')}'"
    )


def test_gic() -> None:
    assert "<gic version='2'/>" in stored(emulator=ARM)
    assert "gic-version=3" in value("-machine", tokens("<features><gic version='3'/></features>", ARM))
    message = refusal("<features><gic version='2'/></features>")
    assert "The 'gic' feature is not supported for architecture 'x86_64'" in message
    assert refusal("<features><gic version='none'/></features>", ARM) == (
        "XML error: Invalid value for attribute 'version' in element 'gic': 'none'."
    )


def test_riscv_interrupts() -> None:
    assert "aia=aplic-imsic" in value(
        "-machine", tokens("<features><aia value='aplic-imsic'/></features>", RISCV)
    )


def test_translation_cache() -> None:
    told = "<features><tcg><tb-cache unit='MiB'>64</tb-cache></tcg></features>"
    assert "<tb-cache unit='KiB'>65536</tb-cache>" in stored(told)
    assert value("-accel", tokens(told)) == "tcg,tb-size=64"


def test_dirty_ring() -> None:
    ring = "<features><kvm><dirty-ring state='on' size='{}'/></kvm></features>"
    assert value("-accel", tokens(ring.format(4096), virt="kvm")) == "kvm,dirty-ring-size=4096"
    assert "power of 2" in refusal(ring.format(4097), virt="kvm")


def test_tseg() -> None:
    told = "<features><smm state='on'><tseg unit='{}'>{}</tseg></smm></features>"
    assert "<tseg unit='GiB'>1</tseg>" in stored(told.format("MiB", 1024), machine="q35")
    assert "mch.extended-tseg-mbytes=8" in tokens(told.format("KiB", 8192), machine="q35")
    assert refusal(told.format("KiB", 1), machine="q35").endswith("SMM TSEG size must be divisible by 1 MiB")
    assert refusal(told.format("MiB", 1)).endswith("SMM TSEG is only supported with q35 machine type")


def test_ps2_can_be_taken_away() -> None:
    off = "<features><ps2 state='off'/>{}</features>"
    assert "i8042=off" in value("-machine", tokens(off.format("")))
    assert "vmport feature requires the ps2 feature" in refusal(off.format("<vmport state='on'/>"))
    assert "ps2 bus inputs require" in refusal(off.format(""), devices="<input type='mouse' bus='ps2'/>")
    assert "cannot be controlled" in refusal(off.format(""), OLD)


def test_s390_never_had_acpi() -> None:
    told = "<features><acpi/></features>"
    assert element(stored(told, S390, update=False), "features") == ""
    assert "does not support ACPI" in refusal(told, S390)


# -- IOMMU ------------------------------------------------------------


def test_iommu_brings_its_interrupt_controller() -> None:
    unit = "<iommu model='intel'><driver eim='on' intremap='on' caching_mode='off'/></iommu>"
    text = stored(devices=unit, machine="q35")
    assert "<ioapic driver='qemu'/>" in text
    assert "<driver intremap='on' caching_mode='off' eim='on'/>" in text
    argv = tokens(devices=unit, machine="q35")
    assert "kernel_irqchip=split" in value("-machine", argv)
    assert '{"driver":"intel-iommu","id":"iommu0","intremap":"on","caching-mode":false,"eim":"on"}' in argv
    assert refusal(devices=unit) == (
        "unsupported configuration: IOMMU device: 'intel' is only supported with Q35 machines"
    )


def test_iommu_of_arm() -> None:
    argv = tokens(devices="<iommu model='smmuv3'/>", emulator=ARM)
    assert ",iommu=smmuv3," in value("-machine", argv)


def test_incoming() -> None:
    argv = tokens(incoming="tcp:192.0.2.1:49152")
    assert value("-incoming", argv) == "tcp:192.0.2.1:49152"
    assert value("-incoming", tokens(incoming="stdio")).startswith("fd:")


@given(st.uuids(), st.integers(0, 3))
def test_uuids_in_any_spelling(uuid: object, style: int) -> None:
    text = str(uuid)
    spelled = (text, text.upper(), text.replace("-", ""), text.replace("-", " "))[style]
    assert canonical_uuid(spelled) == text


def test_options_know_where_they_are_from() -> None:
    command = Guest.from_xml(document()).command(LATEST, Host.nominal())
    memory = next(option for option in command.options if option.flag == "-m")
    assert memory.source is not None
    assert memory.source.line == 2
    assert memory.rule
