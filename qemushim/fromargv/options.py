"""QEMU's options: which take a value, which key a bare word stands for, and what they are called today.

https://www.qemu.org/docs/master/system/invocation.html, and the manuals of older versions for what is gone.
"""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """How the value of an option is written."""

    NONE = "none"
    #: one text, taken as it is
    TEXT = "text"
    #: ``key=value`` or JSON
    PROPERTIES = "properties"


#: options that stand alone
_SWITCHES = (
    *(
        "S",
        "alt-grab",
        "ctrl-grab",
        "curses",
        "daemonize",
        "enable-fips",
        "enable-hax",
        "enable-kvm",
        "full-screen",
    ),
    *(
        "help",
        "h",
        "version",
        "kernel-kqemu",
        "localtime",
        "mem-prealloc",
        "no-acpi",
        "no-fd-bootchk",
        "no-frame",
    ),
    *("no-hpet", "no-kqemu", "no-kvm", "no-kvm-irqchip", "no-kvm-pit", "no-kvm-pit-reinjection", "no-quit"),
    *("no-reboot", "no-shutdown", "no-user-config", "nodefaults", "nodefconfig", "nographic", "old-param"),
    *(
        "one-insn-per-tick",
        "only-migratable",
        "portrait",
        "preconfig",
        "rtc-td-hack",
        "s",
        "sdl",
        "semihosting",
    ),
    *(
        "singlestep",
        "snapshot",
        "std-vga",
        "tdf",
        "usb",
        "vmwarevga",
        "win2k-hack",
        "xen-attach",
        "xen-domid-restrict",
    ),
)
#: options with one text
_TEXTS = (
    *(
        "D",
        "L",
        "append",
        "balloon",
        "bios",
        "bt",
        "cdrom",
        "chroot",
        "clock",
        "cpu",
        "d",
        "debugcon",
        "dfilter",
    ),
    *("dtb", "echr", "fda", "fdb", "g", "gdb", "global", "hda", "hdb", "hdc", "hdd", "incoming", "initrd"),
    *(
        "jitdump",
        "k",
        "kernel",
        "kvm-shadow-memory",
        "loadvm",
        "mem-path",
        "monitor",
        "mtdblock",
        "option-rom",
    ),
    *("parallel", "pcidevice", "perfmap", "pflash", "pidfile", "plugin", "prom-env", "qmp", "readconfig"),
    *("redir", "rotate", "run-with", "runas", "sd", "seed", "serial", "set", "shim", "smb", "soundhw"),
    *("startdate", "tb-size", "tftp", "bootp", "usbdevice", "uuid", "vga", "virtioconsole", "watchdog"),
    *("watchdog-action", "writeconfig", "xen-domid", "xen-mode"),
)
#: options with properties → the key that a first bare word stands for
_PROPERTIES = {
    "accel": "accel",
    "acpitable": "",
    "action": "",
    "add-fd": "",
    "audio": "driver",
    "audiodev": "driver",
    "blockdev": "driver",
    "boot": "order",
    "chardev": "backend",
    "compat": "",
    "device": "driver",
    "display": "type",
    "drive": "",
    "fsdev": "fsdriver",
    "fw_cfg": "name",
    "icount": "shift",
    "iscsi": "",
    "m": "size",
    "machine": "type",
    "mon": "chardev",
    "msg": "",
    "name": "guest",
    "net": "type",
    "netdev": "type",
    "nic": "type",
    "numa": "type",
    "object": "qom-type",
    "overcommit": "",
    "realtime": "",
    "rtc": "",
    "sandbox": "enable",
    "semihosting-config": "enable",
    "smbios": "",
    "smp": "cpus",
    "spice": "",
    "tpmdev": "type",
    "trace": "enable",
    "virtfs": "fsdriver",
    "vnc": "vnc",
}

OPTIONS: dict[str, tuple[Kind, str]] = {
    **dict.fromkeys(_SWITCHES, (Kind.NONE, "")),
    **dict.fromkeys(_TEXTS, (Kind.TEXT, "")),
    **{name: (Kind.PROPERTIES, implied) for name, implied in _PROPERTIES.items()},
}

#: another name of an option → its usual one
SYNONYMS = {"M": "machine", "fullscreen": "full-screen", "hd": "hda", "qmp-pretty": "qmp"}
#: options that only print something, so that no guest is started
PRINTERS = frozenset({"h", "help", "version"})
