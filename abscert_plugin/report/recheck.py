"""The commands that decide anew what a card says, to be run in the folder of the card."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from abscert_plugin.artifact.foreign import PREPROCESSING
from abscert_plugin.data import DATA_SETS
from abscert_plugin.errors import RecordError
from abscert_plugin.report.holdings import GuardFile
from abscert_plugin.report.verified import Verified

_OUT: Final = "again"


@final
@dataclass(frozen=True, slots=True)
class Recheck:
    """A command, and what it tells.

    Args:
        command: a line of a shell.
        tells: what is to be seen, in a sentence.
    """

    command: str
    tells: str


def verification_recheck(verified: Verified, model: str, side: int | None, number: int) -> Recheck:
    """Return the check of a verification's certificate, or the verification itself where there is none.

    Args:
        verified: the verification.
        model: name of the file.
        side: height and width of its images; None where they are not told, or differ.
        number: of the verification among those of the card.

    Raises:
        RecordError: if a name or an option has no meaning on a command line.
    """
    data = ["--data", verified.images.name, *_image_size(verified.images.name, side)]
    if verified.certificate is not None:
        return Recheck(
            _line(["abscert", "check", verified.certificate.name, model, *data]),
            "replays its counterexamples and proves a sample of its certified images again (`--all`: every one); "
            "the exit status is 0 where all of it holds.",
        )
    summary = verified.summary
    options = [*data, "--limit", str(verified.images.images), *_claim(verified), *_preprocessing(verified)]
    return Recheck(
        _line(["abscert", "verify", model, *options, "--out", f"{_OUT}-{number}"]),
        f"is to certify {summary.certified} of {summary.images} images"
        + ("." if verified.ball is None else ", but for those that its time runs out for."),
    )


def guard_recheck(guard: GuardFile, model: str, verified: Sequence[Verified]) -> Recheck:
    """Return the command that writes a guard again.

    Args:
        guard: the guard.
        model: name of the file that it guards.
        verified: verifications of that file, which tell how one of others is read.

    Raises:
        RecordError: as `verification_recheck`.
    """
    radii = [word for ball in guard.balls for word in ("--radius", str(ball.radius.given))]
    first = guard.balls[0]
    options = [*radii, "--radius-scale", str(first.radius.scale), "--inputs", str(first.inputs)]
    options += ["--largest"] * ("radius" in guard.outputs) + (_preprocessing(verified[0]) if verified else [])
    return Recheck(
        _line(["abscert", "guard", model, *options, "--out", f"{_OUT}.onnx"]),
        f"writes a guard of these radii again; version {guard.version} wrote this one.",
    )


def _claim(verified: Verified) -> list[str]:
    told, ball = verified.run.configuration, verified.ball
    words = ["--claim", str(verified.claim)]
    words += ["--arithmetic", str(told["arithmetic"])] if "arithmetic" in told else []
    if ball is None:
        return words
    words += ["--radius", str(ball.radius.given), "--radius-scale", str(ball.radius.scale)]
    words += ["--inputs", str(ball.inputs)]
    for key, option in (("timeout_seconds", "timeout"), ("exhaustive", "exhaustive"), ("bound", "bound")):
        words += [f"--{option}", str(told[key])] if key in told else []
    words += ["--solver", str(told["solver"])] if "solver" in told else []
    then = told.get("then")
    if isinstance(then, Mapping):  # former runs tell the name and version alone
        named = str(then.get("option") or str(then.get("solver")).split(" ")[0])
        words += ["--then", named, "--then-timeout", str(then.get("timeout_seconds"))]
    is_black_box = told.get("white_box") is False and told.get("proofs") is False
    return [*words, "--black-box"] if is_black_box else words


def _image_size(data: str, side: int | None) -> list[str]:
    """Return the option without which images of any size would be read in their own."""
    entry = DATA_SETS.get(data)
    return ["--image-size", str(side)] if entry is not None and entry.can_resize and side is not None else []


def _preprocessing(verified: Verified) -> list[str]:
    """Return the options that say how a file of others reads images."""
    told: Any = (verified.run.model or {}).get(PREPROCESSING)
    if told is None:
        return []
    try:
        words = []
        for key, option in _LISTED.items():
            words += [f"--{option}", ",".join(map(str, told[key]))]
        words += ["--layout", str(told["layout"])]
        words += [] if told["output"] is None else ["--output", str(told["output"])]
        constants: Mapping[str, Any] = told["constants"]
        return words + [word for name, value in constants.items() for word in ("--constant", f"{name}={value}")]
    except (AttributeError, KeyError, TypeError) as error:
        raise RecordError(f"expected how a file was read (image_shape, layout, output, ...), got {told}") from error


_LISTED: Final = {"image_shape": "image-shape", "input_range": "input-range", "mean": "mean", "std": "std"}


def _line(words: Sequence[str]) -> str:
    for word in words:
        if not word.isprintable() or word == "":
            raise RecordError(f"expected names of letters that can be printed, got {word!r}")
    return shlex.join(words)
