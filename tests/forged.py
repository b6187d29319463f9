"""Certificates that were edited, with the digest of what they then say."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Edit = Callable[[dict[str, Any]], None]


def edited(source: Path, target: Path, edit: Edit, digest: bool = True) -> Path:
    """Write a copy with an edit, and with the digest of what it then says."""
    value = json.loads(source.read_text())
    edit(value)
    if digest:
        del value["digest"]
        canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
        value["digest"] = hashlib.sha256(canonical.encode()).hexdigest()
    target.write_text(json.dumps(value))
    return target


def failed(result: dict[str, Any]) -> list[str]:
    """Return what a check found not to hold."""
    return [check["name"] for check in result["checks"] if check["holds"] is False]


def detail(result: dict[str, Any], name: str) -> str:
    """Return what a check found of one thing."""
    (found,) = [check["detail"] for check in result["checks"] if check["name"] == name]
    assert isinstance(found, str)
    return found
