"""Reading a query's file, of either version, packed or not."""

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, final

from abscert_plugin.errors import QueryError
from abscert_plugin.files import read_packed
from abscert_plugin.query.query import Query

QUERY_LIMIT: Final = 2**27
"""Bytes of a query, unpacked: 128 MiB."""

_VERSIONED: Final = re.compile(r"(\s|;[^\n]*\n)*\(\s*vnnlib-version")


@final
@dataclass(frozen=True)
class QueryFile:
    """A query, and the file that it was read from.

    Args:
        path: the file.
        sha256: checksum of its text, unpacked.
        query: what it asks.
    """

    path: Path
    sha256: str
    query: Query


def read_query(path: Path) -> QueryFile:
    """Return the query in a file of VNN-LIB 1 or 2, or such a file packed by gzip.

    Raises:
        QueryError: if it cannot be read, is too large, or asks what is not supported; names the line and the reason.
    """
    content = read_packed(path, QUERY_LIMIT, error=QueryError)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise QueryError(f"{path}: line {line}: expected text in UTF-8") from error
    try:
        query = parse(text)
    except QueryError as error:
        raise QueryError(f"{path}: {error}") from error
    return QueryFile(path, sha256(content).hexdigest(), query)


def parse(text: str) -> Query:
    """Return the query in a text of either version: one that names its version is of version 2.

    Raises:
        QueryError: as `read_query`, without the path.
    """
    if _VERSIONED.match(text):
        from abscert_plugin.query.vnnlib2 import read_version_2

        return read_version_2(text)
    from abscert_plugin.query.vnnlib1 import read_version_1

    return read_version_1(text)
