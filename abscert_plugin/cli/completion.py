"""What a shell completes: names of the tables, and files and run folders below the current one; without torch."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from abscert_plugin.cli import names

_DEPTH: Final = 4
_MOST: Final = 2000
"""Entries of folders that are looked at: a shell waits for the answer."""
_MARKS: Final = frozenset({"deploy.onnx", "records.jsonl", "checkpoint.safetensors"})
"""A folder that holds one of these is a run's."""


def one_of(known: Callable[[], tuple[str, ...]]) -> Callable[[str], list[str]]:
    """Return what completes a name."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in known() if name.startswith(incomplete)]

    return complete


method = one_of(names.methods)
network = one_of(names.networks)
data = one_of(names.data_sets)
solver = one_of(names.solvers)
follower = one_of(names.followers)
activation = one_of(lambda: names.ACTIVATIONS)
bound = one_of(lambda: names.BOUNDS)
engine = one_of(lambda: names.ENGINES)
edges = one_of(lambda: names.EDGES)
inputs = one_of(lambda: names.INPUTS)
arithmetic = one_of(lambda: names.ARITHMETICS)


def run_folder(incomplete: str) -> list[str]:
    """Return folders of runs."""
    return sorted(found for found, is_run in _below(incomplete, ()) if is_run)


def model(incomplete: str) -> list[str]:
    """Return ONNX files and queries, and folders of runs."""
    return sorted(found for found, _ in _below(incomplete, (".onnx", ".onnx.gz", ".vnnlib", ".vnnlib.gz")))


def json_file(incomplete: str) -> list[str]:
    """Return JSON files, such as certificates, and folders of runs."""
    return sorted(found for found, _ in _below(incomplete, (".json",)))


def records(incomplete: str) -> list[str]:
    """Return files of records, and folders of runs."""
    return sorted(found for found, _ in _below(incomplete, (".jsonl", ".jsonl.gz")))


def _below(incomplete: str, suffixes: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    """Yield paths that begin with what is typed: files with one of the suffixes, and folders of runs (True)."""
    typed, _, _ = incomplete.rpartition("/")
    start = Path(f"{typed}/" if typed or incomplete.startswith("/") else ".")
    left = _MOST
    waiting = [(start, 0)]
    while waiting and left > 0:
        folder, depth = waiting.pop(0)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)[:left]
        except OSError:  # what cannot be read cannot be completed
            continue
        left -= len(entries)
        if depth and any(entry.name in _MARKS for entry in entries) and str(folder).startswith(incomplete):
            yield str(folder), True
        for entry in entries:
            shown = str(folder / entry.name)
            if entry.name.startswith(".") or not (shown.startswith(incomplete) or incomplete.startswith(shown)):
                continue
            if entry.is_dir():
                if depth < _DEPTH:
                    waiting.append((folder / entry.name, depth + 1))
            elif entry.name.endswith(suffixes) and suffixes:
                yield shown, False
