"""Cases of the classic corpus: libvirt 0.8.0's documents for QEMU 0.9 – 0.12, with named capabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Runner:
    def __init__(self, corpus: Path) -> None:
        self.corpus = corpus

    def run(self, case: dict[str, Any]) -> dict[str, Any]:
        return {"error": "not built yet"}
