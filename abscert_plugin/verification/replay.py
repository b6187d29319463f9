"""The check of a certificate: counterexamples are replayed, certified images decided anew, counts counted again."""

import base64
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, final

import numpy as np
from jaxtyping import Float32

from abscert_plugin.ball import Ball
from abscert_plugin.claim import Arithmetic, Verdict
from abscert_plugin.data import Batch, DataSet
from abscert_plugin.errors import VerifierError
from abscert_plugin.front import Cells, Pixels
from abscert_plugin.records import Record
from abscert_plugin.verification.certificate import Certificate, Row, batches_of, pixels_sha256
from abscert_plugin.verification.decision import Decider
from abscert_plugin.verification.evidence import RESEARCH, Evidence, is_of_float32
from abscert_plugin.verification.finding import Check, checked, listed, not_checked
from abscert_plugin.verification.logits import read_logits

_NEAR: Final = 1e-4  # of a margin: what another provider may change


@final
@dataclass(frozen=True)
class Replay:
    """What a certificate is checked with: the ONNX file, and what proves the claim of it.

    Args:
        decider: opens what decides the same claim on the same file, for an arithmetic; of balls only for what has to be
            searched for.
        reproof: `Reproof.fault`, which proves balls again; None for the claim `cell`.
        run: the file's logits of images on the pixel scale.
        front: what stands between an image and the file's network.
        ball: the ball of the claim; None for the claim `cell`.
        floor: what a margin must be below 0 by, to count as mislabelled.
    """

    decider: Callable[[Arithmetic | None], Decider]
    reproof: Callable[[Record, np.ndarray, Evidence | None], str] | None
    run: Callable[[np.ndarray], np.ndarray]
    front: Cells | Pixels
    ball: Ball | None
    floor: float

    def covers(self, center: np.ndarray, image: np.ndarray) -> bool:
        """Return whether the claim about `center` speaks of `image`, by exact arithmetic."""
        if self.ball is not None:
            return self.ball.contains(center, image)
        assert isinstance(self.front, Cells)
        return bool((self.front.grid.cell(center) == self.front.grid.cell(image)).all())

    def margin(self, image: np.ndarray, label: int) -> float:
        """Return the label's margin on one image, NaN where a logit is not a finite number.

        Raises:
            VerifierError: if the backend fails.
        """
        return float(read_logits(self.run(image[None]), np.array([label], dtype=np.int64)).margin[0])

    def log2_counts(self, images: np.ndarray) -> Sequence[float | None]:
        """Return log2 of the number of interval images that the claim covers, for each image; None without cells."""
        if self.ball is None:
            return [0.0] * len(images)
        counts = self.front.reach(self.ball, images).log2_counts
        return [None] * len(images) if counts is None else counts.tolist()


def check_verdicts(
    certificate: Certificate,
    data: DataSet,
    replay: Replay,
    sample: int | None,
    seed: int,
    on_images: Callable[[int], None],
) -> Iterator[Check]:
    """Yield the checks of a certificate's verdicts, one by one.

    Soundness: a counterexample counts where exact arithmetic finds it in the ball and the file mislabels it by more
    than the floor; a certified image counts where it is proven again from what the certificate keeps of it, or searched
    for again where nothing was kept. Of the certified images outside the sample only the label, the prediction, the
    count of reachable cells and what their row says of itself are checked.

    Args:
        certificate: what was claimed.
        data: the whole split of the images.
        replay: the file, and what decides the claim on it.
        sample: how many certified images are proven again; None proves all.
        seed: of the sample.
        on_images: told how many images have been decided since it was last told.
    """
    records = [row.record for row in certificate.rows]
    count = certificate.data.get("images")
    expected = data.index[: len(records)].tolist()
    places = data.places
    missing = [f"image {record.index} is not one of them" for record in records if record.index not in places]
    if not missing and (count != len(records) or sorted(record.index for record in records) != sorted(expected)):
        missing = [f"expected the first {count} images, got {len(records)} rows that are not those"]
    yield checked("images are in the data set", listed(missing), f"the first {len(records)}")
    if any(record.index not in places for record in records):
        return
    wrong = [
        f"image {record.index} has the label {data.labels[places[record.index]]}, not {record.label}"
        for record in records
        if data.labels[places[record.index]] != record.label
    ]
    yield checked("labels", listed(wrong), "all as in the data set")
    if wrong:
        return
    yield from _image_checks(certificate, records, data, replay)
    falsified = [row for row in certificate.rows if row.record.verdict == Verdict.FALSIFIED]
    faults = [fault for row in falsified if (fault := _counterexample_fault(row, data, places, replay))]
    name = "counterexamples, replayed through the file"
    yield checked(name, listed(faults), f"all {len(falsified)} are mislabelled images of their balls or cells")
    drawn = certified = [row for row in certificate.rows if row.record.verdict == Verdict.CERTIFIED]
    if sample is not None and sample < len(certified):
        chosen = np.random.default_rng(seed).choice(len(certified), sample, replace=False)
        drawn = [certified[place] for place in sorted(chosen.tolist())]
    left = len(certified) - len(drawn)
    of_all, rest = (f"{len(drawn)} of {len(certified)}", f"; {left} not proven") if left else (f"all {len(drawn)}", "")
    anew = _proven_anew(drawn, data, replay, on_images)
    searched = f", {anew.searched} of them by a new search" if anew.searched else ""
    yield checked("certified images, proven again", listed(anew.faults), of_all + searched + rest)
    unshown = _unshown_margins(anew, len(drawn))
    name = "margins of certified images"
    yield not_checked(name, unshown) if unshown else checked(name, "", of_all + rest)


def _image_checks(
    certificate: Certificate, records: Sequence[Record], data: DataSet, replay: Replay
) -> Iterator[Check]:
    """Yield the checks of what rows say of their images themselves, each of which is read once."""
    counts: list[str] = []
    answers: list[str] = []

    def seen() -> Iterator[np.ndarray]:
        """Yield the images, and note what their rows say otherwise."""
        for part, _, pixels in batches_of(records, data):
            counts.extend(_other_counts(part, pixels, replay))
            answers.extend(_other_answers(part, pixels, replay))
            yield pixels

    found = pixels_sha256(seen())
    if certificate.schema == 1 and "pixels_sha256" not in certificate.data:
        yield not_checked("pixels", "certificates of schema 1 keep no checksum of them")
    else:
        is_same = certificate.data.get("pixels_sha256") == found
        other = "" if is_same else "images of these names have other pixels than those that were verified"
        yield checked("pixels", other, "the same, row by row")
    yield checked("reachable cells", listed(counts), "counted again")
    yield checked("predictions and margins of the images", listed(answers), "run again")


def _is_same_count(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-9)


def _power(log2: float | None) -> str:
    return "no known number of" if log2 is None else f"2^{log2:.6g}"


def _other_counts(records: Sequence[Record], pixels: np.ndarray, replay: Replay) -> list[str]:
    """Return where rows name another number of reachable combinations than their balls have."""
    return [
        f"image {record.index} reaches {_power(found)} combinations, not {_power(record.reachable_log2)}"
        for record, found in zip(records, replay.log2_counts(pixels), strict=True)
        if not _is_same_count(found, record.reachable_log2)
    ]


def _counterexample_fault(row: Row, data: DataSet, places: Mapping[int, int], replay: Replay) -> str:
    record = row.record
    center = data.pixels(data.take(np.array([places[record.index]])).images)[0]
    image = center if row.image is None else _unpacked(row.image, center.shape)
    if image is None or not ((image >= 0) & (image <= 1)).all():  # false for NaN
        return f"image {record.index}: its counterexample is not an image of shape {center.shape} with pixels in [0, 1]"
    if not replay.covers(center, image):
        return f"image {record.index}: its counterexample lies outside the ball or the cells"
    if not 0 <= record.label < len(data.classes):
        return f"image {record.index}: there is no class {record.label}"
    try:
        margin = replay.margin(image, record.label)
    except VerifierError as error:
        return f"image {record.index}: {error}"
    if not margin < -replay.floor:
        return f"image {record.index}: its counterexample is not mislabelled (margin {margin:.3g})"
    if not _is_near(record.margin, margin, replay.floor):
        return f"image {record.index}: its counterexample has a margin of {margin:.6g}, not {record.margin}"
    return ""


def _is_near(told: float | None, found: float, floor: float) -> bool:
    return told is not None and abs(told - found) <= _room(found, floor)


def _is_more(told: float | None, found: float, floor: float) -> bool:
    """Return whether a row says more than a margin that was found, by more than rounding; None says it is infinite."""
    return not (math.inf if told is None else told) <= found + _room(found, floor)


def _room(margin: float, floor: float) -> float:
    """Return by how much margins of one image may differ: by rounding, or another provider."""
    return 2 * floor + _NEAR * max(1.0, abs(margin))


def _other_answers(records: Sequence[Record], pixels: np.ndarray, replay: Replay) -> list[str]:
    """Return where rows do not say what the file answers to the images themselves, by more than the floor."""
    labels = np.array([record.label for record in records], dtype=np.int64)
    try:
        logits = replay.run(pixels)
    except VerifierError as error:
        return [str(error)]
    answers, faults = read_logits(logits, labels), []
    top = np.sort(np.nan_to_num(logits), axis=1)
    is_clear = top[:, -1] - top[:, -2] > replay.floor
    for record, prediction, margin, clear in zip(
        records, answers.prediction.tolist(), answers.margin.tolist(), is_clear, strict=True
    ):
        if clear and record.prediction != prediction:
            faults.append(f"image {record.index} is predicted as {prediction}, not {record.prediction}")
        elif margin < -replay.floor and record.verdict != Verdict.FALSIFIED:
            faults.append(f"image {record.index} is itself mislabelled, and its row says {record.verdict}")
        elif replay.ball is None and np.isfinite(margin) and not _is_near(record.margin, margin, replay.floor):
            faults.append(f"image {record.index} has a margin of {margin:.6g}, not {record.margin}")
        elif record.verdict == Verdict.CERTIFIED and _is_more(record.margin, margin, replay.floor):
            faults.append(f"image {record.index} has a margin of {margin:.6g} itself, less than {record.margin}")
    return faults


@final
@dataclass(slots=True)
class _Anew:
    """What became of certified images that were proven again.

    Args:
        faults: why rows are not proven.
        searched: how many were searched for.
        less: of these, how many name a larger margin than the search showed.
        former: how many name a margin that was found in float32, which nothing proves.
    """

    faults: list[str] = field(default_factory=list)
    searched: int = 0
    less: int = 0
    former: int = 0


def _proven_anew(rows: Sequence[Row], data: DataSet, replay: Replay, on_images: Callable[[int], None]) -> _Anew:
    anew = _Anew(former=sum(replay.reproof is not None and is_of_float32(row.record) for row in rows))
    evidence = {row.record.index: row.evidence for row in rows}
    for part, batch, pixels in batches_of([row.record for row in rows], data):
        again = np.arange(len(part))
        if replay.reproof is not None:
            found = [
                replay.reproof(record, image, evidence[record.index])
                for record, image in zip(part, pixels, strict=True)
            ]
            again = np.array([place for place, fault in enumerate(found) if fault == RESEARCH], dtype=np.int64)
            anew.faults += [
                f"image {record.index}: {fault}"
                for record, fault in zip(part, found, strict=True)
                if fault not in ("", RESEARCH)
            ]
            anew.searched += len(again)
        _search_anew(part, batch, pixels, again, replay, anew)
        on_images(len(part))
    return anew


def _search_anew(
    records: Sequence[Record], batch: Batch, pixels: np.ndarray, again: np.ndarray, replay: Replay, anew: _Anew
) -> None:
    """Decide some rows of a batch anew, each for the arithmetic that it names, and note what is not shown again.

    Soundness: what is decided for another arithmetic than a row names says nothing of that row.
    """
    told = [records[place].arithmetic for place in again.tolist()]
    for name in dict.fromkeys(told):
        asked = None if name is None else Arithmetic(name)
        places = again[[one == name for one in told]]
        decided = replay.decider(asked).decide(pixels[places], batch.labels[places], batch.index[places])
        for place, item in zip(places.tolist(), decided, strict=True):
            found, row = item.record, records[place]
            if found.verdict != Verdict.CERTIFIED:
                anew.faults.append(f"image {row.index} is {found.verdict} ({found.reason})")
            elif asked is not None and not (found.arithmetic and Arithmetic(found.arithmetic).implies(asked)):
                anew.faults.append(f"image {row.index} is certified for {found.arithmetic} now, not for {asked}")
            else:
                least = math.inf if found.margin is None else found.margin
                anew.less += asked is not None and _is_more(row.margin, least, replay.floor)


def _unshown_margins(anew: _Anew, count: int) -> str:
    """Return of how many rows the margins were not shown, and why; empty where all were.

    A new search need not come upon the proof of the first one: it has another time, and its bounds are as good as its
    cuts. So a margin that it does not show is no fault.
    """
    why = {
        "whose images are not proven": len(anew.faults),
        "bounds in float32 of an earlier version, which nothing proves": anew.former,
        "larger than a new search showed, which need not find the same proof": anew.less,
    }
    return "; ".join(f"{number} of {count}, {reason}" for reason, number in why.items() if number)


def _unpacked(text: str, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."] | None:
    """Return the image, or None where the text is not one of this shape."""
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    if len(content) != 4 * int(np.prod(shape)):
        return None
    return np.frombuffer(content, dtype="<f4").astype(np.float32).reshape(shape)
