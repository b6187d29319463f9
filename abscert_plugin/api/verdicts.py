"""What `abscert.verify` returns: a verdict for each image, with what was found, and the run that they stand for."""

import html
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, final, overload

import numpy as np
from jaxtyping import Bool, Float32, Float64

from abscert_plugin.api.wording import as_keywords, in_python
from abscert_plugin.claim import Arithmetic, Claim, Radius, RadiusScale, Verdict
from abscert_plugin.data import DataSet
from abscert_plugin.data.arrays import ARRAYS
from abscert_plugin.errors import ConfigError, MissingPackageError, RecordError
from abscert_plugin.files import read_array
from abscert_plugin.records import Record, RunInfo
from abscert_plugin.report.provenance import IMAGES
from abscert_plugin.verification.certificate import sentence, write_certificate
from abscert_plugin.verification.decision import ITSELF
from abscert_plugin.verification.summary import Summary, summarise

if TYPE_CHECKING:
    import pandas

_SHOWN: Final = 20  # rows of the table in a notebook
_COLUMNS: Final = (
    *("index", "label", "prediction", "verdict", "margin", "counterexample"),
    *("arithmetic", "seconds", "reason", "method"),
)


@final
@dataclass(frozen=True, slots=True)
class ImageVerdict:
    """The verdict on one image.

    Args:
        index: the image's place among those that were given (in its file, of a data set).
        label: its class.
        prediction: the class that the model gives the image itself; -1 where it gave no number.
        verdict: `certified`, `falsified` or `unknown`.
        margin: the label's logit minus the greatest other one: a proven lower bound where certified, the least that was
            seen elsewhere; None where there is no number.
        arithmetic: what evaluations of the model the verdict holds for; None of `unknown`.
        seconds: time spent on it (a batch's time is shared equally).
        reason: why, in one phrase.
        method: what decided it.
        reads: reads the counterexample.
    """

    index: int
    label: int
    prediction: int
    verdict: Verdict
    margin: float | None
    arithmetic: Arithmetic | None
    seconds: float
    reason: str
    method: str
    reads: Callable[[], Float32[np.ndarray, "channels height width"] | None] = field(repr=False, compare=False)

    @property
    def counterexample(self) -> Float32[np.ndarray, "channels height width"] | None:
        """An image in [0, 1] that the model mislabels, read from the records; None unless falsified.

        Raises:
            RecordError: if its file is missing or broken.
        """
        return self.reads()


@final
class Verdicts(Sequence[ImageVerdict]):
    """The verdicts on images, in the order in which these were given: `verdicts[3].verdict`, `len(verdicts)`.

    Attributes:
        claim: what was decided, `cell` or `ball`; its radius and scale stand in `run.configuration`.
        model: the ONNX file that was run; a torch module's verdicts are about this export of it.
        folder: where its records are; it goes with this object where no `out` was named, see `save`.
        records: the rows as the command writes them.
        run: how they were made.
        data: the images and labels.
        notes: what there was to say, such as what of the model stays closed; a line each.
    """

    def __init__(
        self,
        records: Sequence[Record],
        run: RunInfo,
        data: DataSet,
        folder: Path,
        model: Path,
        notes: Sequence[str] = (),
        holder: object = None,
    ) -> None:
        places = data.places
        self.records = tuple(sorted(records, key=lambda record: places[record.index]))
        self.run = run
        self.folder = folder
        self.model = model
        self.notes = tuple(as_keywords(note.removeprefix("note: ")) for note in notes)
        self.claim = Claim(run.configuration["claim"])
        self.data = data
        self._places = places
        self._holder = holder  # of a temporary folder

    @overload
    def __getitem__(self, place: int) -> ImageVerdict: ...
    @overload
    def __getitem__(self, place: slice) -> list[ImageVerdict]: ...
    def __getitem__(self, place: int | slice) -> ImageVerdict | list[ImageVerdict]:
        """Return the verdict on the image at a place, or those of a slice."""
        if isinstance(place, slice):
            return [self._verdict(record) for record in self.records[place]]
        return self._verdict(self.records[place])

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[ImageVerdict]:
        return map(self._verdict, self.records)

    @property
    def certified(self) -> Bool[np.ndarray, "images"]:
        """Whether each image is certified."""
        return self._are(Verdict.CERTIFIED)

    @property
    def falsified(self) -> Bool[np.ndarray, "images"]:
        """Whether each image is falsified: it has a counterexample, perhaps itself."""
        return self._are(Verdict.FALSIFIED)

    @property
    def unknown(self) -> Bool[np.ndarray, "images"]:
        """Whether each image was left undecided."""
        return self._are(Verdict.UNKNOWN)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdict on each image."""
        return tuple(Verdict(record.verdict) for record in self.records)

    @property
    def margins(self) -> Float64[np.ndarray, "images"]:
        """The margin of each image, see `ImageVerdict.margin`; NaN where there is none."""
        return np.array([np.nan if one.margin is None else one.margin for one in self.records], dtype=np.float64)

    @property
    def counterexamples(self) -> list[Float32[np.ndarray, "channels height width"] | None]:
        """For each image an image of its ball or cells that the model mislabels; None where none was found."""
        return [self._counterexample(record) for record in self.records]

    def verified_error(self) -> float:
        """Return the share of images that are not certified, 0 to 1."""
        return self.summary().verified_error

    def clean_error(self) -> float:
        """Return the share of images that the model mislabels as they are, 0 to 1."""
        return self.summary().clean_error

    def summary(self) -> Summary:
        """Return counts and rates, with the 95 % interval of the verified error."""
        return summarise(self.records)

    def to_frame(self) -> "pandas.DataFrame":
        """Return the verdicts as a pandas DataFrame, a row for each image; its counterexamples are arrays.

        Raises:
            MissingPackageError: if pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingPackageError("to_frame() needs pandas, which is not installed: pip install pandas") from error
        rows = [{name: getattr(row, name) for name in _COLUMNS} for row in self]
        frame = pandas.DataFrame(rows, columns=list(_COLUMNS)).set_index("index")
        frame.attrs["claim"] = self._title()
        return frame

    @in_python
    def save(self, folder: str | Path) -> Path:
        """Copy the records, counterexamples and an exported model into a folder, as the command writes them.

        `abscert show FOLDER` reads it. Images that came as arrays and are whole levels go into `images.npz` there, for
        `abscert check CERTIFICATE MODEL --data FOLDER/images.npz`.

        Args:
            folder: one that is not there, or is empty.

        Raises:
            RecordError: if it holds something already, or cannot be written.
        """
        target = Path(folder)
        if target.resolve() == self.folder.resolve():
            return target
        try:
            if target.exists() and any(target.iterdir()):
                raise RecordError(f"expected a new or empty folder for the records, got {target}, which holds files")
            shutil.copytree(self.folder, target, dirs_exist_ok=True)
            self._save_images(target / IMAGES)
        except OSError as error:
            raise RecordError(f"cannot write {target}: {error.strerror or error}") from error
        return target

    @in_python
    def certificate(self, path: str | Path) -> Path:
        """Write all verdicts with their evidence into one file, for `abscert check`, and return its path.

        Raises:
            ConfigError: if another solver decided.
            RecordError: if it cannot be written.
        """
        refuse_other(self.run.configuration.get("solver"))
        self.write_certificate(Path(path))
        return Path(path)

    def write_certificate(self, path: Path) -> None:
        """Write the certificate, as the command does.

        Raises:
            RecordError: if a counterexample cannot be read or the file cannot be written.
            ConfigError: if a file of that name is there that is no certificate.
        """
        write_certificate(path, self.folder, list(self.records), self.run, self.data)

    def __str__(self) -> str:
        found = self.summary()
        low, high = found.interval
        counts = f"{found.certified:,} certified, {found.falsified:,} falsified, {found.unknown:,} unknown"
        holds = f" (arithmetic: {found.holds_for})" if found.holds_for else ""
        return (
            f"{self._title()}: {counts} of {len(self):,} images{holds}; "
            f"verified error {found.verified_error:.2%} (95 % interval {low:.2%} to {high:.2%})"
        )

    def __repr__(self) -> str:
        return f"<Verdicts: {self}>"

    def _repr_html_(self) -> str:
        """Return the summary and the first rows as HTML, for notebooks."""
        names = ("index", "label", "prediction", "verdict", "margin", "arithmetic", "seconds", "reason")
        head = "".join(f"<th>{name}</th>" for name in names)
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_cell(getattr(row, name)))}</td>" for name in names) + "</tr>"
            for row in self.records[:_SHOWN]
        )
        more = f"<p>and {len(self) - _SHOWN:,} more</p>" if len(self) > _SHOWN else ""
        says = html.escape(sentence(self.claim, self.run.configuration))
        return (
            f"<p><b>{html.escape(str(self))}</b></p><p>{says}</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}"
        )

    def _title(self) -> str:
        told = self.run.configuration
        if self.claim is Claim.CELL:
            return "claim cell"
        kind = "" if told.get("inputs") == "float" else f", {told.get('inputs')} images"
        radius = Radius.parse(told["radius"], RadiusScale(told["radius_scale"]))
        return f"claim ball, radius {radius}{kind}"

    def _save_images(self, path: Path) -> None:
        """Write images that came as arrays as a data set of one part, the test split."""
        batch = self.data.take(np.arange(len(self.data)))
        if self.data.name != ARRAYS or batch.images.dtype != np.uint8:
            return
        levels, classes = np.array(self.data.levels), np.array(self.data.classes)
        np.savez_compressed(path, test_images=batch.images, test_labels=batch.labels, levels=levels, classes=classes)

    def _are(self, verdict: Verdict) -> Bool[np.ndarray, "images"]:
        return np.array([record.verdict == verdict for record in self.records], dtype=bool)

    def _verdict(self, record: Record) -> ImageVerdict:
        holds = record.holds_for
        return ImageVerdict(
            index=record.index,
            label=record.label,
            prediction=record.prediction,
            verdict=Verdict(record.verdict),
            margin=record.margin,
            arithmetic=None if holds is None else Arithmetic(holds),
            seconds=record.seconds,
            reason=record.reason,
            method=record.method,
            reads=partial(self._counterexample, record),
        )

    def _counterexample(self, record: Record) -> Float32[np.ndarray, "channels height width"] | None:
        if record.counterexample is None:
            return None
        if record.counterexample == ITSELF:
            batch = self.data.take(np.array([self._places[record.index]]))
            return self.data.pixels(batch.images)[0]
        return read_array(self.folder / record.counterexample)


def refuse_other(solver: str | None) -> None:
    """Raise where another solver decides: no certificate can be written of its verdicts.

    Raises:
        ConfigError: if one does.
    """
    if solver is not None:
        raise ConfigError(
            f"expected no --certificate with --solver {solver}: it says how abscert's bounds are computed"
        )


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
