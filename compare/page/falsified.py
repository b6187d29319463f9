"""Counterexamples of each way to train at each radius: the image, what is mislabelled, and the difference."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Float32

from abscert_plugin.claim import Verdict
from abscert_plugin.data.dataset import DataSet
from abscert_plugin.errors import AbscertError, DataError, RecordError, VerifierError
from abscert_plugin.records import RUN, Record, RunInfo, read_records
from abscert_plugin.report.changes import draw_difference
from abscert_plugin.report.counterexamples import Replay, read_counterexample, read_stored_image
from abscert_plugin.report.figures import class_name
from abscert_plugin.report.gallery import Picture, draw_image, take_images
from abscert_plugin.report.provenance import run_images, run_replay
from abscert_plugin.verification.decision import ITSELF
from compare.plans.naming import names, setting, variant
from compare.results.stored_run import TRAINING
from compare.results.verified_run import VerifiedRun, grouped, records_file
from compare.tables.error_table import scales

MOST_ITEMS: Final = 6
"""Images that are shown of a verification."""
MOST_BYTES: Final = 4_000_000
"""Of all pictures of a page, as they stand in it; each verification has an equal part."""
_MOST_IMAGE_BYTES: Final = 4 * 3 * 512 * 512


@final
@dataclass(frozen=True, slots=True)
class FalsifiedImage:
    """One falsified image.

    Args:
        index: its place in the data set's own file.
        label: its class, by name.
        prediction: the class that the counterexample gets, by name; empty where that is not known.
        pictures: the image, the counterexample and the difference, as far as they are at hand.
        note: how far the counterexample lies from the image, or why it is not shown; empty for nothing.
    """

    index: int
    label: str
    prediction: str
    pictures: tuple[Picture, ...]
    note: str


@final
@dataclass(frozen=True, slots=True)
class RunGallery:
    """Images of one verification.

    Args:
        name: what the way to train is called.
        radius: of the ball, with both scales.
        counts: how many images are falsified, and how many of them are mislabelled without a change.
        items: those shown.
        missing: why there are no clean images; empty where there are.
    """

    name: str
    radius: str
    counts: str
    items: tuple[FalsifiedImage, ...]
    missing: str


@final
@dataclass(frozen=True, slots=True)
class SettingGalleries:
    """The galleries of one setting."""

    title: str
    galleries: tuple[RunGallery, ...]


@final
class _DataSets:
    """The data sets that are at hand, each read once."""

    def __init__(self, data_dir: Path | None) -> None:
        self._data_dir = data_dir
        self._found: dict[tuple[object, ...], DataSet | str] = {}

    def images(self, run: RunInfo, size: int | None) -> DataSet | str:
        """Return the images of a run, or why they are not there; `size` is the side that they were resized to."""
        facts = run.data or {}
        key = (*(str(facts.get(name)) for name in ("name", "split", "sha256")), size)
        if key not in self._found:
            try:
                self._found[key] = run_images(run, self._data_dir, size)
            except DataError as error:
                self._found[key] = str(error)
        return self._found[key]


def falsified_galleries(found: Iterable[VerifiedRun], data_dir: Path | None) -> tuple[SettingGalleries, ...]:
    """Return the galleries of all verified balls that have a stored counterexample, of the first seed.

    Args:
        found: the verifications.
        data_dir: where the data sets' files are; `$ABSCERT_DATA` where None.

    Raises:
        RecordError: if records cannot be read.
    """
    balls = (verified for verified in found if verified.radius is not None and verified.summary.falsified)
    groups = grouped(balls, lambda verified: setting(verified.run))
    shown = {title: _first_seeds(group) for title, group in sorted(groups.items())}
    share = MOST_BYTES // max(1, sum(map(len, shown.values())))
    shelf = _DataSets(data_dir)
    made = []
    for title, group in shown.items():
        called = names(verified.run for verified in group)
        galleries = [_gallery(verified, called[variant(verified.run)], shelf, share) for verified in group]
        made.append(SettingGalleries(title, tuple(gallery for gallery in galleries if gallery.items)))
    return tuple(own for own in made if own.galleries)


def _first_seeds(group: Sequence[VerifiedRun]) -> list[VerifiedRun]:
    first: dict[tuple[str, Fraction], VerifiedRun] = {}
    for verified in sorted(group, key=lambda one: (one.run.seed, one.run.key)):
        assert verified.radius is not None
        first.setdefault((variant(verified.run), verified.radius.pixel), verified)
    return [first[key] for key in sorted(first, key=lambda key: (first[key].run.method, *key))]


def _gallery(verified: VerifiedRun, name: str, shelf: _DataSets, most_bytes: int) -> RunGallery:
    assert verified.radius is not None
    run = RunInfo.read(verified.folder / RUN)
    falsified = [row for row in read_records(records_file(verified.folder)) if row.verdict == Verdict.FALSIFIED]
    changed = [row for row in falsified if row.counterexample != ITSELF]
    data = shelf.images(run, verified.run.image_size)
    chosen = sorted(changed, key=lambda row: row.index)[:MOST_ITEMS]
    items = _items(chosen, verified.folder, run, None if isinstance(data, str) else data)
    counts = f"{len(falsified):,} of {verified.summary.images:,} images falsified"
    if len(falsified) > len(changed):
        counts += f", {len(falsified) - len(changed):,} of them mislabelled without a change"
    missing = f"The counterexamples stand alone, since {data}." if isinstance(data, str) else ""
    return RunGallery(name, f"radius {scales(verified.radius.pixel)}", counts, _within(items, most_bytes), missing)


def _within(items: Sequence[FalsifiedImage], most_bytes: int) -> tuple[FalsifiedImage, ...]:
    """Return the first items, as many as there is room for."""
    kept: list[FalsifiedImage] = []
    for item in items:
        most_bytes -= sum(len(picture.uri) for picture in item.pictures)
        if most_bytes < 0:
            break
        kept.append(item)
    return tuple(kept)


def _items(rows: Sequence[Record], folder: Path, run: RunInfo, data: DataSet | None) -> list[FalsifiedImage]:
    images = {} if data is None else take_images(data, [row.index for row in rows])
    classes = None if data is None else data.classes
    stored: dict[int, Float32[np.ndarray, "channels height width"]] = {}
    faults: dict[int, str] = {}
    for row in rows:
        image = images.get(row.index)
        try:
            if image is None:
                stored[row.index] = read_stored_image(folder, row, _MOST_IMAGE_BYTES)
            else:
                stored[row.index] = read_counterexample(folder, row, image)
        except RecordError as error:
            faults[row.index] = f"The stored counterexample cannot be shown: {error}."
    labels = _labels(stored, folder, run)
    items = []
    for row in rows:
        image, other, label = images.get(row.index), stored.get(row.index), labels.get(row.index)
        pictures, note = ((), faults[row.index]) if other is None else _drawn(image, other)
        prediction = "" if label is None else class_name(label, classes)
        items.append(FalsifiedImage(row.index, class_name(row.label, classes), prediction, pictures, note))
    return items


def _drawn(
    image: Float32[np.ndarray, "channels height width"] | None, other: Float32[np.ndarray, "channels height width"]
) -> tuple[tuple[Picture, ...], str]:
    """Return the pictures of a counterexample, and how far it lies from the image."""
    drawn = draw_image(other, "counterexample")
    if image is None:
        return (drawn,), ""
    change = np.abs(other.astype(np.float64) - image)
    most, count = float(change.max()), int((change > 0).any(axis=0).sum())
    pictures = (draw_image(image, "image"), drawn, draw_difference(image, other, most))
    return pictures, f"{count:,} {'pixel' if count == 1 else 'pixels'} changed, by at most {most:.3g}"


def _labels(stored: Mapping[int, np.ndarray], folder: Path, run: RunInfo) -> Mapping[int, int]:
    """Return what the deployed file gives counterexamples; nothing where it is not at hand."""
    shapes = {image.shape for image in stored.values()}
    replay = _replay(run, folder, shapes.pop()) if len(shapes) == 1 else None
    if replay is None:
        return {}
    try:
        return dict(zip(stored, replay(np.stack(list(stored.values()))), strict=True))
    except VerifierError:
        return {}


def _replay(run: RunInfo, folder: Path, shape: tuple[int, ...]) -> Replay | None:
    """Return what runs the deployed file of the verification's training, or None where that is not at hand."""
    try:
        return run_replay(run, (folder.parent / TRAINING,), shape)
    except (AbscertError, OSError, ValueError):  # the page then leaves the predictions out
        return None
