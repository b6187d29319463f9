"""The finished verifications of one ONNX file, out of their folders and certificates, held against one another."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Final, final

import msgspec

from abscert_plugin.ball import Ball
from abscert_plugin.claim import Claim, Verdict
from abscert_plugin.errors import RecordError
from abscert_plugin.files import sha256_of
from abscert_plugin.records import RECORDS, RUN, Record, RunInfo, read_records
from abscert_plugin.verification.certificate import read_certificate
from abscert_plugin.verification.summary import Summary, summarise
from abscert_plugin.wording import plain_words

_VERIFY: Final = "verify"
_SET_ASIDE: Final = ".old-"  # in the name of a folder that `--fresh` has renamed


@final
class Images(msgspec.Struct, frozen=True):
    """Which images a verification was about; a key more does no harm."""

    name: str
    split: str
    images: int
    sha256: str


@final
@dataclass(frozen=True, slots=True)
class Verified:
    """A finished verification.

    Args:
        run: how it was made.
        images: what it was about.
        claim: what was decided.
        ball: whose radius it is about; None for the claim `cell`.
        records: its rows, by index.
        certificate: the file that holds its verdicts; None where there is none.
    """

    run: RunInfo
    images: Images
    claim: Claim
    ball: Ball | None
    records: tuple[Record, ...]
    certificate: Path | None = None

    @property
    def summary(self) -> Summary:
        """What its rows add up to."""
        return summarise(self.records)

    @property
    def arithmetic(self) -> str:
        """What evaluations of the file the certified rows hold for, or would."""
        return self.summary.holds_for or str(self.run.configuration.get("arithmetic", "none"))

    @property
    def certificate_sha256(self) -> str:
        """Checksum of the certificate; empty where there is none."""
        return "" if self.certificate is None else sha256_of([self.certificate])

    @property
    def order(self) -> tuple[str, str, Fraction, str]:
        """Where it stands among others."""
        radius = Fraction(0) if self.ball is None else self.ball.radius.pixel
        return self.images.name, self.claim.value, radius, "" if self.ball is None else str(self.ball.inputs)


@final
class Verifications:
    """The verifications of a file, each once.

    Args:
        path: the file.
        sha256: its checksum, with that of the files that hold its tensors.
    """

    def __init__(self, path: Path, sha256: str) -> None:
        self._path = path
        self._sha256 = sha256
        self._found: list[Verified] = []

    def all(self) -> tuple[Verified, ...]:
        """Return them by data set, claim and radius."""
        return tuple(sorted(self._found, key=lambda one: one.order))

    def take_those_beside(self) -> list[Path]:
        """Take up what lies in folders beside the file; return the folders that are about others, or were set aside.

        Raises:
            RecordError: if one names this file and tells of another checksum, has not ended, or contradicts itself.
        """
        left_out = []
        for place in sorted(self._path.parent.glob(f"*/{RUN}")):
            run = RunInfo.read(place)
            told = run.model or {}
            is_named = told.get("path") == self._path.name or told.get("sha256") == self._sha256
            if run.command == _VERIFY and is_named and _SET_ASIDE not in place.parent.name:
                self._take_folder(place.parent, run)
            elif run.command == _VERIFY:
                left_out.append(place.parent)
        return left_out

    def take_folders(self, folders: Iterable[Path]) -> None:
        """Take up verifications that lie elsewhere.

        Raises:
            RecordError: if one is about another file, has not ended, or contradicts itself.
        """
        for folder in folders:
            self._take_folder(folder, RunInfo.read(folder / RUN))

    def take_certificates(self, places: Iterable[Path]) -> None:
        """Take up what certificates hold.

        Raises:
            RecordError: if one cannot be read, was changed, is about another file, or contradicts the records.
        """
        for place in places:
            stored, is_intact = read_certificate(place)
            if not is_intact:
                raise RecordError(f"{place} was changed: its digest is not that of its content")
            run = RunInfo(
                command=_VERIFY,
                configuration={**stored.configuration, "claim": stored.claim},
                versions=stored.versions,
                device=stored.device,
                provider=stored.provider,
                data=stored.data,
                model=stored.model,
            )
            self._take(run, [row.record for row in stored.rows], place, place)

    def _take_folder(self, folder: Path, run: RunInfo) -> None:
        if run.command != _VERIFY or run.seconds is None:
            raise RecordError(
                f"{folder} holds no verification that has ended; the command that began it goes on with it"
            )
        self._take(run, read_records(folder / RECORDS), folder)

    def _take(self, run: RunInfo, records: Sequence[Record], place: Path, certificate: Path | None = None) -> None:
        told = str((run.model or {}).get("sha256"))
        if told != self._sha256:
            raise RecordError(
                f"{place} is about another file than {self._path}: expected the checksum {self._sha256:.12}, got "
                f"{told:.12}; verify this file anew, or take that folder or certificate away"
            )
        new = replace(_verified(run, records, place), certificate=certificate)
        for number, former in enumerate(self._found):
            if (former.run.configuration, former.images) != (new.run.configuration, new.images):
                continue
            if _contradict(former.records, new.records):
                raise RecordError(f"{place} has other verdicts than another record of the same verification")
            if _verdicts(former.records) == _verdicts(new.records):
                self._found[number] = replace(former, certificate=former.certificate or certificate)
                return
        self._found.append(new)


def _verified(run: RunInfo, records: Sequence[Record], place: Path) -> Verified:
    """Return a verification whose rows are what it says that they are.

    Raises:
        RecordError: if they are not.
    """
    try:
        images, claim = msgspec.convert(run.data, Images), Claim(run.configuration.get("claim", ""))
    except (msgspec.ValidationError, ValueError) as error:
        raise RecordError(f"{place} does not say what was verified on which images: {plain_words(error)}") from error
    ball = None if claim is Claim.CELL else Ball.told(run.configuration)
    told = (claim.value, *((None,) * 3 if ball is None else _as_told(ball)))
    for row in records:
        if (row.claim, row.radius, row.radius_scale, row.inputs) != told or row.verdict not in list(Verdict):
            raise RecordError(f"{place}: image {row.index} has no verdict on the claim that the run tells of")
        if _is_odd(row):
            raise RecordError(f"{place}: image {row.index} is {row.verdict}, which the rest of its row contradicts")
    if len(records) != images.images:
        raise RecordError(f"expected {images.images} rows in {place}, as its data say, got {len(records)}")
    summarise(records)  # raises where an image stands twice, or there is none
    return Verified(run, images, claim, ball, tuple(sorted(records, key=lambda row: row.index)))


def _is_odd(row: Record) -> bool:
    """Return whether a row is falsified without a counterexample, or not and has one, or certified and mislabelled."""
    has_counterexample = row.counterexample is not None
    is_mislabelled = row.verdict == Verdict.CERTIFIED and row.prediction != row.label
    return has_counterexample != (row.verdict == Verdict.FALSIFIED) or is_mislabelled


def _verdicts(records: Sequence[Record]) -> list[tuple[int, str, str | None]]:
    return [(row.index, row.verdict, row.arithmetic) for row in records]


def _contradict(one: Sequence[Record], other: Sequence[Record]) -> bool:
    """Return whether an image is certified here and falsified there: what time ran out for is unknown, and neither."""
    decided = {row.index: row.verdict for row in one if row.verdict != Verdict.UNKNOWN}
    return any(decided.get(row.index, row.verdict) != row.verdict for row in other if row.verdict != Verdict.UNKNOWN)


def _as_told(ball: Ball) -> tuple[float, str, str]:
    return float(ball.radius.given), str(ball.radius.scale), str(ball.inputs)
