"""Results of another solver, as the competition publishes them or a run of ours has them, and contradictions."""

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Final, final

from abscert_plugin.errors import AbscertError, RecordError
from abscert_plugin.instances.listing import PACKED, Instance, is_there, lines_of
from abscert_plugin.instances.rows import RESULTS, Result, Row, read_results
from abscert_plugin.records import RECORDS

_WORDS: Final[Mapping[str, Result]] = MappingProxyType(
    {
        "sat": Result.SAT,
        "violated": Result.SAT,
        "unsat": Result.UNSAT,
        "holds": Result.UNSAT,
        "unknown": Result.UNKNOWN,
        "timeout": Result.TIMEOUT,
        "run_instance_timeout": Result.TIMEOUT,
    }
)
"""What results are called in the competitions of some years; all else is an error."""
_LEAST_COLUMNS: Final = 5
_SECONDS: Final = 5  # the column of them, where there is one


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """What another solver says of an instance.

    Args:
        category, network, query: as its list names them, without .gz at their ends.
        result: what it says.
        seconds: its time; None where it is not told.
    """

    category: str
    network: str
    query: str
    result: Result
    seconds: float | None


@final
@dataclass(frozen=True)
class Other:
    """The results of another solver.

    Args:
        name: what it is called: its folder's name.
        folder: where its counterexamples are.
        findings: of each pair of a network's and a query's file, without their folders.
    """

    name: str
    folder: Path
    findings: Mapping[tuple[str, str], Sequence[Finding]]

    def of(self, instance: Instance) -> Finding | None:
        """Return what it says of an instance; None where it says nothing.

        Of instances of one name, that is the one whose paths end in more folders of ours, or that has our category.
        """
        found = self.findings.get((_base(instance.network), _base(instance.query)), ())

        def likeness(finding: Finding) -> tuple[int, bool]:
            alike = _alike(finding.network, instance.network) + _alike(finding.query, instance.query)
            return alike, instance.category in finding.category or finding.category in instance.category

        return max(found, key=likeness, default=None)

    def counterexample(self, instance: Instance, finding: Finding) -> Path | None:
        """Return the file of its counterexample; None where there is none."""
        for name in (instance.name, f"{_stem(finding.network)}_{_stem(finding.query)}"):
            for suffix in ("", PACKED):
                file = f"{name}.counterexample{suffix}"
                places = [self.folder / finding.category / file, *sorted(self.folder.glob(f"*/{glob.escape(file)}"))]
                for place in places:
                    if is_there(place) and finding.category in place.parent.name:
                        return place
        return None


@final
@dataclass(frozen=True, slots=True)
class Contradiction:
    """An instance of which one solver says `sat` and the other `unsat`.

    Args:
        instance: the instance.
        ours, theirs: what is said.
        says: whose answer is wrong, or why nobody can tell.
        is_one: whether it is one: a `sat` whose counterexample does not satisfy the query contradicts nothing.
    """

    instance: Instance
    ours: Result
    theirs: Result
    says: str
    is_one: bool


def read_other(path: Path) -> Other:
    """Return the results in a list of the competition, or in a folder of `abscert bench`.

    Raises:
        RecordError: if there is no such file, or a line is no result.
    """
    file = path
    if path.is_dir():
        file = path / RECORDS if (path / RECORDS).is_file() else path / RESULTS
        if not file.is_file():
            raise RecordError(f"expected {RECORDS} or {RESULTS} in {path}, found neither")
    found: dict[tuple[str, str], list[Finding]] = {}
    for finding in _of_rows(read_results(file)) if file.name.endswith(".jsonl") else _of_csv(file):
        found.setdefault((_base(finding.network), _base(finding.query)), []).append(finding)
    if not found:
        raise RecordError(f"expected results in {file}, found none")
    return Other(file.resolve().parent.name, file.parent, found)


def contradictions(instances: Sequence[Instance], rows: Sequence[Row], other: Other, out: Path) -> list[Contradiction]:
    """Return the instances of which one says `sat` and the other `unsat`; the counterexample is run again.

    Results name files and do not hold them: the competition has given one name to different queries in different years.

    Args:
        instances: what was run.
        rows: what came out, in the same order.
        other: what another solver says.
        out: the folder of our counterexamples.
    """
    found = []
    for instance, row in zip(instances, rows, strict=True):
        finding = other.of(instance)
        if finding is None or {row.result, finding.result} != {Result.SAT, Result.UNSAT}:
            continue
        if row.result is Result.SAT:
            file = None if row.counterexample is None else out / row.counterexample
            says, is_one = _judged(instance, file, "ours", f"{other.name}'s unsat")
        else:
            says, is_one = _judged(instance, other.counterexample(instance, finding), other.name, "our unsat")
        found.append(Contradiction(instance, row.result, finding.result, says, is_one))
    return found


def _judged(instance: Instance, file: Path | None, whose: str, denied: str) -> tuple[str, bool]:
    """Return what running a counterexample says of a contradiction, and whether it is one."""
    from abscert_plugin.instances.replaying import satisfies  # torch is not needed before

    if file is None:
        return f"the counterexample of {whose} is not there, so that nobody can tell who is wrong", True
    try:
        holds = satisfies(instance, file)
    except AbscertError as error:
        return f"the counterexample of {whose} cannot be run ({error})", True
    if holds:
        return f"the counterexample of {whose} satisfies the query here: {denied} is wrong, of these very files", True
    return f"the counterexample of {whose} does not satisfy the query exactly", False


def _of_rows(rows: Sequence[Row]) -> Iterator[Finding]:
    for row in rows:
        yield Finding(row.category, row.network, row.query, row.result, row.seconds)


def _of_csv(path: Path) -> Iterator[Finding]:
    for place, words in lines_of(path, RecordError):
        if len(words) < _LEAST_COLUMNS:
            raise RecordError(
                f"{place}: expected category, network, query, seconds of preparation, result and "
                f"seconds, got {','.join(words)[:120]!r}"
            )
        seconds = _number(words[_SECONDS]) if len(words) > _SECONDS else None
        network, query = (word.removesuffix(PACKED) for word in words[1:3])
        yield Finding(words[0], network, query, _WORDS.get(words[4].lower(), Result.ERROR), seconds)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def _base(name: str) -> str:
    return PurePosixPath(name).name


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _alike(first: str, second: str) -> int:
    """Return in how many parts two paths end alike."""
    count = 0
    for one, other in zip(reversed(PurePosixPath(first).parts), reversed(PurePosixPath(second).parts), strict=False):
        if one != other:
            break
        count += 1
    return count
