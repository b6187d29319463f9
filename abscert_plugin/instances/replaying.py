"""Whether a counterexample that a solver has printed satisfies its query: the file is run, and all checked exactly."""

import re
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float32

from abscert_plugin.errors import RecordError
from abscert_plugin.files import ARRAY_LIMIT, read_packed
from abscert_plugin.instances.listing import Instance
from abscert_plugin.query.attack import Attack
from abscert_plugin.query.network import open_network
from abscert_plugin.query.reading import read_query

_ENTRY: Final = re.compile(r"\(\s*X_(\d{1,9})\s+([^\s()]+)\s*\)")
_HEAD: Final = re.compile(r"^\S+ \S+ \[[\d,]*\]$", re.MULTILINE)


def satisfies(instance: Instance, file: Path) -> bool:
    """Return whether the input in a file, plain or packed, satisfies the query of an instance.

    Numbers that are no float32 are rounded to the nearest, since the network reads no others.

    Raises:
        AbscertError: if the network, the query or the file cannot be read, or the file has not one number an input.
    """
    query = read_query(instance.query_file).query
    network = open_network(instance.network_file, query)
    point = _point(file, query.input.count)
    return Attack(network, query).holds(point) is not None


def _point(file: Path, count: int) -> Float32[np.ndarray, "entries"]:
    text = read_packed(file, ARRAY_LIMIT).decode("utf-8", "replace")
    entries = {int(place): number for place, number in _ENTRY.findall(text)}
    heads = list(_HEAD.finditer(text))
    if not entries and heads:  # as version 2 has it: a head, and a number a line, of each tensor
        end = heads[1].start() if len(heads) > 1 else len(text)
        entries = dict(enumerate(text[heads[0].end() : end].split()))
    try:
        values = np.array([float(entries[place]) for place in range(count)])
    except (KeyError, ValueError) as error:
        raise RecordError(f"{file}: expected a number for each of {count} inputs") from error
    if not np.isfinite(values).all() or np.abs(values).max() > np.finfo(np.float32).max:
        raise RecordError(f"{file}: expected finite numbers")
    return values.astype(np.float32)
