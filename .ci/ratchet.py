#!/usr/bin/env python3
"""Score the conformance corpora beside the checkout, and fail when a figure fell below ``floor.json``.

``--raise`` writes the figures that were reached as the new floor.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CORPUS = Path(os.environ.get("QEMUSHIM_CORPUS", ROOT.parent / "shared" / "corpus"))
SCORE = CORPUS.parent / "score.py"


def figures(name: str) -> dict[str, list[int]]:
    """What the scorer says of one corpus: figure → [reached, of how many]."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.jsonl"
        run = [sys.executable, str(ROOT / "tools" / "conformance.py"), str(CORPUS / name), "-o", str(out)]
        subprocess.run(run, check=True)
        score = [sys.executable, str(SCORE), str(CORPUS / name), str(out), "--json"]
        found: dict[str, list[int]] = json.loads(
            subprocess.run(score, check=True, capture_output=True).stdout
        )
    return found


def hotplug_figure(name: str) -> dict[str, list[int]]:
    """The same for the corpus's hotplug cases, which compare themselves."""
    if not (CORPUS / name / "hotplug.json").is_file():
        return {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.jsonl"
        program = str(ROOT / "tools" / "conformance.py")
        run = [sys.executable, program, "--hotplug", str(CORPUS / name), "-o", str(out)]
        subprocess.run(run, check=True)
        passed = [json.loads(line)["passed"] for line in out.read_text().splitlines()]
    return {"hotplug": [sum(passed), len(passed)]}


def main() -> int:
    if not (CORPUS.is_dir() and SCORE.is_file()):
        print("no conformance corpus beside this checkout: nothing to compare")
        return 0
    floor_file = HERE / "floor.json"
    floor: dict[str, dict[str, int]] = json.loads(floor_file.read_text())
    fallen = 0
    for name in sorted(entry.name for entry in CORPUS.iterdir() if (entry / "manifest.json").is_file()):
        for figure, (reached, total) in {**figures(name), **hotplug_figure(name)}.items():
            least = floor.get(name, {}).get(figure, 0)
            fell = reached < least
            fallen += fell
            print(f"{name:8} {figure:8} {reached:5}/{total:<5} floor {least}{'  FELL' if fell else ''}")
            if "--raise" in sys.argv:
                floor.setdefault(name, {})[figure] = max(reached, least)
    if "--raise" in sys.argv:
        floor_file.write_text(json.dumps(floor, indent=2) + "\n")
    return 1 if fallen else 0


if __name__ == "__main__":
    sys.exit(main())
