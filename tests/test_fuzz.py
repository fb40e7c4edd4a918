"""Documents nobody wrote: never an exception but ``ShimError``, never two answers, a definition that is final.

``tools/fuzz.py`` goes on where this stops.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError
from qemushim.guest import Guest
from qemushim.host import Host
from tests.strategies import domains, inputs, seen
from tools import documents, fuzz

#: of the long run's documents, so many are looked at here
FIRST = 3000


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(domains)
def test_no_document_does_harm(drawn: tuple[str, Emulator]) -> None:
    outcome = fuzz.judge(*drawn)
    assert not outcome.is_finding, outcome


def test_the_first_of_the_long_run() -> None:
    for number in range(FIRST):
        root, emulator = documents.draw(number, inputs(), seen())
        outcome = fuzz.judge(documents.text(root), emulator)
        assert not outcome.is_finding, (number, outcome)


def test_every_problem_is_told_once_and_has_a_place() -> None:
    """``Guest.problems`` agrees with ``define`` on whether there is one, and ends; each has a line and a hint."""
    for number in range(400):
        root, emulator = documents.draw(number, inputs(), seen())
        text = documents.text(root)
        here = Host.nominal(emulator.arch)
        problems = Guest(documents.parse(text)).problems(emulator, here)
        assert all(problem.hint and problem.line for problem in problems), (number, problems)
        refusal = ""
        try:
            Guest.from_xml(text).command(emulator, here)
        except ConfigError as first:
            refusal = first.message
        assert [refusal] == [p.message for p in problems if p.message == refusal][:1] or not (
            refusal or problems
        )


def test_a_run_is_resumed_and_findings_are_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        fuzz, "_judge", lambda text, emulator: fuzz.Outcome("bad" if "<disk" in text else "ok")
    )
    arguments = ["--state", str(tmp_path), "--documents"]
    assert fuzz.main([*arguments, "20"]) == 1
    kept = sorted(tmp_path.glob("bad-*.xml"))
    assert len(kept) == 1
    assert "<disk" in kept[0].read_text()
    assert kept[0].read_text().count("<") < 8
    assert fuzz.main([*arguments, "30"]) == 1
    assert fuzz.State(tmp_path).next == 30


def test_the_same_number_is_the_same_document() -> None:
    texts = [documents.text(documents.draw(7, inputs(), seen())[0]) for _ in range(2)]
    assert texts[0] == texts[1]


def test_a_kept_case_is_judged_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "case.xml"
    file.write_text("<domain type='kvm'><name>x</name></domain>")
    assert fuzz.main(["--case", str(file)]) == 0
    assert capsys.readouterr().out.startswith("refused: ")
