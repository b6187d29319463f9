"""The check of a certificate: counterexamples are replayed, certified images decided anew, counts counted again."""

import base64
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from jaxtyping import Float32

import abscert_plugin
from abscert_plugin.ball import Ball
from abscert_plugin.claim import Arithmetic, Claim, Verdict
from abscert_plugin.data import DataSet
from abscert_plugin.data.arrays import ARRAYS
from abscert_plugin.errors import VerifierError
from abscert_plugin.front import Cells, Pixels
from abscert_plugin.records import Record
from abscert_plugin.verification.certificate import (
    FLOATING_POINT,
    UNPROVEN_HERE,
    Certificate,
    Row,
    batches_of,
    pixels_sha256,
    sentence,
)
from abscert_plugin.verification.decision import ITSELF, Decider
from abscert_plugin.verification.evidence import CERTIFYING, PROVEN, RESEARCH, Evidence
from abscert_plugin.verification.logits import read_logits

_OF_FILE: Final = ("classes", "network", "training", "preprocessing")  # what its metadata say, or how it was opened
_NAMED: Final = 5  # images that a failed check names
_NEAR: Final = 1e-4  # of a margin: what another provider may change


@final
@dataclass(frozen=True)
class Replay:
    """What a certificate is checked with: the ONNX file, and what proves the claim of it.

    Args:
        decider: opens what decides the same claim on the same file; of balls only for what has to be searched for.
        reproof: `Reproof.fault`, which proves balls again; None for the claim `cell`.
        run: the file's logits of images on the pixel scale.
        front: what stands between an image and the file's network.
        ball: the ball of the claim; None for the claim `cell`.
        floor: what a margin must be below 0 by, to count as mislabelled.
    """

    decider: Callable[[], Decider]
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


@final
@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked: what, whether it holds, and what was found."""

    name: str
    holds: bool
    detail: str


def check_origin(
    certificate: Certificate, is_intact: bool, model: Mapping[str, Any], data: DataSet, runs_alone: bool
) -> Iterator[Check]:
    """Yield the checks of what a certificate is about, one by one; none runs the file.

    Args:
        certificate: what was claimed.
        is_intact: whether its digest is that of its content.
        model: what a record would say of the ONNX file at hand (`model_facts`).
        data: the whole split of the images at hand.
        runs_alone: whether that file is run on one image at a time, which a certificate of it has to say.
    """
    yield _check("digest", "" if is_intact else "the file was changed after it was written", "as written")
    written, here = certificate.versions.get("abscert-plugin"), abscert_plugin.__version__
    other = f"written by abscert-plugin {written!r}, this is {here!r}: verify again, or check with that version"
    yield _check("version", "" if written == here else other, here)
    contradictions = [fault for row in certificate.rows if (fault := _contradiction(certificate, row.record))]
    claim = Claim(certificate.claim)
    expected = sentence(claim, certificate.configuration), FLOATING_POINT[certificate.schema][claim]
    if (certificate.says, certificate.floating_point) != expected:
        contradictions.insert(0, "its sentences are not those of its claim")
    if bool(certificate.configuration.get("one_by_one")) != runs_alone:
        contradictions.insert(0, f"its file is run {'one image' if runs_alone else 'many images'} at a time")
    if certificate.configuration.get("claim") != certificate.claim:
        contradictions.insert(0, "its configuration is of another claim")
    yield _check("rows agree with the claim", _listed(contradictions), f"all {len(certificate.rows)}")
    is_same = certificate.model.get("sha256") == model["sha256"]
    yield _check("model", "" if is_same else "the ONNX file is another file or was changed", "the same file")
    is_same = all(certificate.model.get(name) == model[name] for name in ("cells", "edges"))
    shown = "no cells" if model["cells"] is None else f"{model['cells']} cells"
    yield _check("grid", "" if is_same else "the file has other cells", shown)
    others = [name for name in _OF_FILE if name in certificate.model and certificate.model[name] != model.get(name)]
    yield _check("network", f"the file says another {', '.join(others)}" if others else "", "as the file says")
    left_out = sum(row.record.reason.endswith(UNPROVEN_HERE) for row in certificate.rows)
    if "then" in certificate.configuration:
        told = "unknown here: another solver certifies them for real numbers, and nothing here proves that"
        yield _check("images left to another solver", "", f"{left_out} are {told}")
    name, split, sha256 = (certificate.data.get(key) for key in ("name", "split", "sha256"))
    # arrays have no name but that of the file that holds them now
    is_same = name in (data.name, ARRAYS) and (split, sha256) == (data.split.value, data.sha256)
    yield _check("data", "" if is_same else "other images than the certificate is about", "the same images")


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
    places = {int(index): position for position, index in enumerate(data.index)}
    missing = [f"image {record.index} is not one of them" for record in records if record.index not in places]
    if not missing and (count != len(records) or sorted(record.index for record in records) != sorted(expected)):
        missing = [f"expected the first {count} images, got {len(records)} rows that are not those"]
    yield _check("images are in the data set", _listed(missing), f"the first {len(records)}")
    if any(record.index not in places for record in records):
        return
    wrong = [
        f"image {record.index} has the label {data.labels[places[record.index]]}, not {record.label}"
        for record in records
        if data.labels[places[record.index]] != record.label
    ]
    yield _check("labels", _listed(wrong), "all as in the data set")
    if wrong:
        return
    counts: list[str] = []
    answers: list[str] = []

    def seen() -> Iterator[np.ndarray]:
        """Yield the images, read once, and note what their rows say otherwise."""
        for part, _, pixels in batches_of(records, data):
            counts.extend(_other_counts(part, pixels, replay))
            answers.extend(_other_answers(part, pixels, replay))
            yield pixels

    found = pixels_sha256(seen())
    is_same = certificate.schema == 1 or certificate.data.get("pixels_sha256") == found
    other = "" if is_same else "images of these names have other pixels than those that were verified"
    yield _check("pixels", other, "the same, row by row")
    yield _check("reachable cells", _listed(counts), "counted again")
    yield _check("predictions and margins of the images", _listed(answers), "run again")
    falsified = [row for row in certificate.rows if row.record.verdict == Verdict.FALSIFIED]
    faults = [fault for row in falsified if (fault := _counterexample_fault(row, data, places, replay))]
    name = "counterexamples, replayed through the file"
    yield _check(name, _listed(faults), f"all {len(falsified)} are mislabelled images of their balls or cells")
    certified = [row for row in certificate.rows if row.record.verdict == Verdict.CERTIFIED]
    if sample is not None and sample < len(certified):
        chosen = np.random.default_rng(seed).choice(len(certified), sample, replace=False)
        certified = [certified[place] for place in sorted(chosen.tolist())]
    yield _proven_anew(certified, data, replay, on_images)


def _is_same_count(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-9)


def _power(log2: float | None) -> str:
    return "no known number of" if log2 is None else f"2^{log2:.6g}"


def _check(name: str, fault: str, found: str) -> Check:
    return Check(name, not fault, fault or found)


def _listed(faults: list[str]) -> str:
    more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
    return "; ".join(faults[:_NAMED]) + more


def _contradiction(certificate: Certificate, record: Record) -> str:
    """Return where a row does not say what the certificate says, or no run can have written it; empty if nowhere."""
    ball = certificate.ball
    told = (record.radius, record.radius_scale, record.inputs)
    expected = (None, None, None) if ball is None else (float(ball.radius.given), ball.radius.scale, ball.inputs)
    if told != expected:
        return f"image {record.index} is of another radius, scale or kind of images"
    is_right = record.prediction == record.label
    if record.arithmetic != _arithmetic(certificate, record):
        return f"image {record.index} is said to hold for {record.arithmetic}, which its method cannot show"
    if record.verdict == Verdict.CERTIFIED and record.method not in CERTIFYING:
        return f"image {record.index} is certified by {record.method!r}, which shows nothing"
    if record.verdict == Verdict.CERTIFIED and not is_right:
        return f"image {record.index} is certified and mislabelled"
    if record.verdict == Verdict.FALSIFIED and is_right == (record.counterexample == ITSELF):
        return f"image {record.index} has a prediction that its counterexample contradicts"
    return ""


def _arithmetic(certificate: Certificate, record: Record) -> Arithmetic | None:
    """Return the arithmetic that a row should name."""
    asked = certificate.arithmetic
    if asked is None or record.verdict == Verdict.UNKNOWN:
        return None
    if record.verdict == Verdict.FALSIFIED:
        return Arithmetic.THIS_RUNTIME
    is_proven = record.method in PROVEN and asked is Arithmetic.THIS_RUNTIME
    return Arithmetic.ANY_ORDER if is_proven else asked


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


def _proven_anew(
    rows: Sequence[Row],
    data: DataSet,
    replay: Replay,
    on_images: Callable[[int], None],
) -> Check:
    faults: list[str] = []
    searched = less = 0
    evidence = {row.record.index: row.evidence for row in rows}
    margins = {row.record.index: row.record.margin for row in rows}
    for part, batch, pixels in batches_of([row.record for row in rows], data):
        again = np.arange(len(part))
        if replay.reproof is not None:
            found = [
                replay.reproof(record, image, evidence[record.index])
                for record, image in zip(part, pixels, strict=True)
            ]
            again = np.array([place for place, fault in enumerate(found) if fault == RESEARCH], dtype=np.int64)
            faults += [
                f"image {record.index}: {fault}"
                for record, fault in zip(part, found, strict=True)
                if fault not in ("", RESEARCH)
            ]
            searched += len(again)
        if len(again):
            for item in replay.decider().decide(pixels[again], batch.labels[again], batch.index[again]):
                if item.record.verdict != Verdict.CERTIFIED:
                    faults.append(f"image {item.record.index} is {item.record.verdict} ({item.record.reason})")
                least = math.inf if item.record.margin is None else item.record.margin
                less += _is_more(margins[item.record.index], least, replay.floor)
        on_images(len(part))
    more = f", {searched} of them by a new search" if searched else ""
    more += f"; {less} of their rows name a larger margin than was proven now" if less else ""
    return _check("certified images, proven again", _listed(faults), f"all {len(rows)}{more}")


def _unpacked(text: str, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."] | None:
    """Return the image, or None where the text is not one of this shape."""
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    if len(content) != 4 * int(np.prod(shape)):
        return None
    return np.frombuffer(content, dtype="<f4").astype(np.float32).reshape(shape)
