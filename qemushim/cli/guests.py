"""What the subcommands for guests of our own share."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from qemushim.cli.common import note, printable
from qemushim.errors import ConfigError

if TYPE_CHECKING:
    from qemushim.driver.machine import Machine

#: seconds that a guest has to shut down
SHUTDOWN = 60


def add_guest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("guest", metavar="GUEST", help="name of a guest that “qemushim run” has started")


def add_documents(parser: argparse.ArgumentParser) -> None:
    """Which of the two documents is meant."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--live", action="store_true", help="the running guest alone (default: both, at the same address)"
    )
    which.add_argument("--config", action="store_true", help="the definition alone, for the next start")


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """How long a guest may take to shut down."""
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=SHUTDOWN,
        help=f"what the guest has to shut down (default: {SHUTDOWN})",
    )


def add_secrets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--secret",
        metavar="ID=FILE",
        action="append",
        default=[],
        help="a secret that the document names by UUID or usage, and the file with it; may be given several times",
    )


def read_secrets(given: list[str]) -> dict[str, bytes]:
    """UUID or usage → secret.  Raises ``ConfigError``."""
    found = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals:
            raise ConfigError(f"--secret {text} names no file", hint="--secret ID=FILE")
        try:
            with open(path, "rb") as file:
                found[name] = file.read()
        except OSError as problem:
            raise ConfigError(f"cannot read the secret: {problem.strerror}", file=path) from None
    return found


def opened(name: str) -> Machine:
    """A guest that was started before; what happened to it since is told."""
    from qemushim.driver.machine import Machine

    machine = Machine.open(name)
    tell(machine)
    return machine


def tell(machine: Machine) -> None:
    """Say what happened while nobody looked, once."""
    for line in machine.notes:
        note(line)
    machine.notes.clear()


def report_state(machine: Machine) -> None:
    """Say what a guest does now, after what happened to it meanwhile."""
    tell(machine)
    print(printable(f"{machine.name}: {machine.status().state}"))


def device_text(given: str) -> str:
    """The XML of a device: a file, ``-``, or the XML itself.  Raises ``ConfigError``."""
    if given.lstrip().startswith("<"):
        return given
    try:
        if given == "-":
            return sys.stdin.read()
        with open(given, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise ConfigError(f"cannot read the device: {reason}", file=given) from None


def device_name(given: str) -> str:
    """What tells a device from the others: an alias, a target, a MAC, or its XML (as such or in a file)."""
    return (
        device_text(given)
        if given == "-" or given.lstrip().startswith("<") or os.path.isfile(given)
        else given
    )
