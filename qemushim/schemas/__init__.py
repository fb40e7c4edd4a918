"""JSON Schemas of the data that the subcommands print.  https://json-schema.org/draft/2020-12

>>> jsonschema.validate(json.loads(output), qemushim.schemas.schema("compare"))
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def names() -> list[str]:
    """What ``schema`` knows."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".json") for file in files if file.name.endswith(".json"))


def text(name: str) -> str:
    """A schema as it is written.  Raises ``KeyError`` for one that is not there."""
    if name not in names():
        raise KeyError(name)
    return resources.files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8")


def schema(name: str) -> dict[str, Any]:
    """A schema as a validator takes it.  Raises ``KeyError`` for one that is not there."""
    found: dict[str, Any] = json.loads(text(name))
    return found


__all__ = ["names", "schema", "text"]
