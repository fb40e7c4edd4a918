"""``Command``: the environment, the binary and its options in order, and what must be handed to the process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from qemushim.command.option import Option


class Descriptor(NamedTuple):
    """A file descriptor that the process inherits: its number on the command line and what it must be open on."""

    #: -1 where it goes by a name
    number: int
    #: ``listen`` (a UNIX socket), ``file``, ``tap``, ``vhost-net``, ``vhost-vdpa``, ``vsock``, ``tpm``, …
    kind: str
    #: path, interface name, or what else the kind needs
    target: str = ""
    #: the device that uses it (its alias)
    user: str = ""
    #: what the monitor calls it, where it is passed to a QEMU that runs
    name: str = ""


class SecretFile(NamedTuple):
    """A file with secret material that must exist before the start (the master key)."""

    path: str
    purpose: str


class Command:
    """A command line as a value: nothing is started, nothing is opened."""

    def __init__(
        self,
        binary: str,
        options: list[Option] | None = None,
        environment: dict[str, str] | None = None,
        descriptors: list[Descriptor] | None = None,
        files: list[SecretFile] | None = None,
    ) -> None:
        self.binary = binary
        self.options = [] if options is None else options
        self.environment = {} if environment is None else environment
        self.descriptors = [] if descriptors is None else descriptors
        self.files = [] if files is None else files

    def __repr__(self) -> str:
        return f"Command({self.tokens})"

    @property
    def argv(self) -> list[str]:
        """The binary and every option, without the environment."""
        return [self.binary, *self]

    @property
    def tokens(self) -> list[str]:
        """Environment assignments, then the binary, then every option: what libvirt's goldens list."""
        return [f"{name}={value}" for name, value in self.environment.items()] + self.argv

    def __iter__(self) -> Iterator[str]:
        for option in self.options:
            yield option.flag
            if option.text is not None:
                yield option.text
