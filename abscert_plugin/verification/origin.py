"""What a certificate is about, and whether its rows can say what it says: all that is checked without the file."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import abscert_plugin
from abscert_plugin.claim import Arithmetic, Claim, Verdict
from abscert_plugin.data import DATA_SETS, DataSet
from abscert_plugin.data.arrays import ARRAYS
from abscert_plugin.records import Record
from abscert_plugin.verification.certificate import (
    FLOATING_POINT,
    UNPROVEN_HERE,
    Certificate,
    former_sentence,
    sentence,
)
from abscert_plugin.verification.decision import ITSELF
from abscert_plugin.verification.evidence import CERTIFYING, PROVEN
from abscert_plugin.verification.finding import Check, checked, listed, not_checked

_OF_FILE: Final = ("classes", "network", "training", "preprocessing")  # what its metadata say, or how it was opened


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
    yield checked("digest", "" if is_intact else "the file was changed after it was written", "as written")
    written, here = certificate.versions.get("abscert-plugin"), abscert_plugin.__version__
    other = f"written by abscert-plugin {written!r}, this is {here!r}: verify again, or check with that version"
    yield checked("version", "" if written == here else other, here)
    contradictions = [fault for row in certificate.rows if (fault := _contradiction(certificate, row.record))]
    claim = Claim(certificate.claim)
    says, former = (told(claim, certificate.configuration) for told in (sentence, former_sentence))
    rounding = FLOATING_POINT[certificate.schema][claim]
    if certificate.says not in (says, former) or certificate.floating_point != rounding:
        contradictions.insert(0, "its sentences are not those of its claim")
    if bool(certificate.configuration.get("one_by_one")) != runs_alone:
        contradictions.insert(0, f"its file is run {'one image' if runs_alone else 'many images'} at a time")
    if certificate.configuration.get("claim") != certificate.claim:
        contradictions.insert(0, "its configuration is of another claim")
    narrower = "" if certificate.says == says else "; of 8-bit images alone, which its older sentence leaves out"
    yield checked("rows agree with the claim", listed(contradictions), f"all {len(certificate.rows)}{narrower}")
    is_same = certificate.model.get("sha256") == model["sha256"]
    yield checked("model", "" if is_same else "the ONNX file is another file or was changed", "the same file")
    is_same = all(certificate.model.get(name) == model[name] for name in ("cells", "edges"))
    shown = "no cells" if model["cells"] is None else f"{model['cells']} cells"
    yield checked("grid", "" if is_same else "the file has other cells", shown)
    others = [name for name in _OF_FILE if name in certificate.model and certificate.model[name] != model.get(name)]
    untold = [name for name in _OF_FILE if name in model and name not in certificate.model]
    if others or not untold:
        yield checked("network", f"the file says another {', '.join(others)}" if others else "", "as the file says")
    else:
        yield not_checked("network", f"the certificate does not tell its {', '.join(untold)}")
    left_out = sum(row.record.reason.endswith(UNPROVEN_HERE) for row in certificate.rows)
    if "then" in certificate.configuration:
        told = "unknown here: another solver certifies them for real numbers, and nothing here proves that"
        left = "images left to another solver"
        yield not_checked(left, f"{left_out} are {told}") if left_out else checked(left, "", "none")
    name, split, sha256 = (certificate.data.get(key) for key in ("name", "split", "sha256"))
    # arrays have no name but that of the file that holds them now, and a file of the user's own may lie elsewhere
    is_named = name in (data.name, ARRAYS) or not {name, data.name} & {*DATA_SETS}
    is_same = is_named and (split, sha256) == (data.split.value, data.sha256)
    yield checked(
        "data",
        "" if is_same else "other images than the certificate is about, or of other levels or classes",
        "the same images",
    )


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
    if record.verdict == Verdict.CERTIFIED and record.method not in CERTIFYING[Claim(certificate.claim)]:
        return f"image {record.index} is certified by {record.method!r}, which shows nothing of a {record.claim}"
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
    is_proven = record.method in PROVEN and certificate.claim == Claim.BALL and asked is Arithmetic.THIS_RUNTIME
    return Arithmetic.ANY_ORDER if is_proven else asked
