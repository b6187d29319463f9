"""The model card of a classifier: what is on record of it, as model hubs read it, and nothing else."""

import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import jinja2

import abscert_plugin
from abscert_plugin.artifact.foreign import PREPROCESSING
from abscert_plugin.claim import Arithmetic, Claim, Verdict, scope
from abscert_plugin.data import DATA_SETS
from abscert_plugin.errors import ConfigError
from abscert_plugin.report.figures import INPUTS, interval_percent, percent
from abscert_plugin.report.holdings import Holdings, RecordedTraining
from abscert_plugin.report.recheck import guard_recheck, verification_recheck
from abscert_plugin.report.verified import Verified
from abscert_plugin.report.yaml_text import Yaml, yaml_text

CARD: Final = "README.md"
_LICENSE: Final = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_MARKS: Final = re.compile(r"([\\`*_{}\[\]<>#|])")
_TEMPLATE: Final = "card.md.jinja"
_UNTOLD: Final = "not on record"
MEANING: Final[Mapping[str, str]] = MappingProxyType(
    {
        Arithmetic.ANY_ORDER: "every evaluation of the file in float32, whatever the order of its sums",
        Arithmetic.WIDE_SUMS: "as any-order, of a file with float16, whose sums of products are held in float32",
        Arithmetic.THIS_RUNTIME: "the runtime, provider and machine that ran the file",
        Arithmetic.REAL: "exact real numbers, which no runtime computes with",
        Arithmetic.UNPROVEN: "nothing that is proven: the rounding of its bounds was guessed at",
    }
)
"""What evaluations of a file a verdict holds for."""


def model_card(holdings: Holdings, license_name: str | None = None) -> str:
    """Return the text of a card.

    Args:
        holdings: what is on record.
        license_name: of the model, as hubs name it, such as `mit`; None leaves it untold.

    Raises:
        ConfigError: if the license is no name of one.
        RecordError: if a name on record cannot stand in a command.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("abscert_plugin", "report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - Markdown: `shown` and `code` escape it
        keep_trailing_newline=True,
    )
    environment.filters |= {"shown": shown, "code": code}
    return environment.get_template(_TEMPLATE).render(
        head=yaml_text(card_head(holdings, license_name)),
        name=_name(holdings),
        version=abscert_plugin.__version__,
        model=holdings.model,
        metadata=holdings.metadata,
        files=_files(holdings),
        used=json.dumps((holdings.guard.file if holdings.guard is not None else holdings.model).path.name),
        trained=holdings.trained,
        training=_training(holdings.trained) if holdings.trained is not None else _told_training(holdings),
        claims=[(claim, _scopes(holdings.verified, claim), _table(holdings.verified, claim)) for claim in Claim],
        verified=holdings.verified,
        meanings=_meanings(holdings.verified),
        environments=_environments(holdings.verified),
        guard=holdings.guard,
        guard_radii=[] if holdings.guard is None else [str(ball.radius) for ball in holdings.guard.balls],
        guard_inputs="" if holdings.guard is None else INPUTS[holdings.guard.balls[0].inputs],
        rechecks=_rechecks(holdings),
        needs_files=any(_needs_files(one) for one in holdings.verified),
    )


def card_head(holdings: Holdings, license_name: str | None = None) -> Mapping[str, Yaml]:
    """Return what hubs read: see `model_card`."""
    if license_name is not None and not _LICENSE.fullmatch(license_name):
        raise ConfigError(f"expected --license as hubs name it, such as mit or apache-2.0, got {license_name!r}")
    tags = ["onnx", "abscert", "certified-robustness", "neural-network-verification"]
    trained_on = holdings.metadata.trained_on if holdings.metadata is not None else None
    data = [*([trained_on] if trained_on else []), *(one.images.name for one in holdings.verified)]
    head: dict[str, Yaml] = {} if license_name is None else {"license": license_name}
    head |= {"library_name": "onnx", "pipeline_tag": "image-classification", "tags": tags}
    if data:
        head["datasets"] = list(dict.fromkeys(data))
    if holdings.verified:
        head["metrics"] = ["accuracy", "certified_accuracy"]
        head["model-index"] = [{"name": _name(holdings), "results": _results(holdings)}]
    return head


def _results(holdings: Holdings) -> list[Yaml]:
    """Return the figures of each set of images: a claim and a radius are part of each name and never mixed."""
    metrics: dict[tuple[str, str, int, str], list[Yaml]] = {}
    for one in holdings.verified:
        images = one.images
        key = (images.name, images.split, images.images, images.sha256)
        for metric in (_clean(one, holdings), _certified(one, holdings)):
            known = metrics.setdefault(key, [])
            known.extend([] if metric in known else [metric])
    return [
        {
            "task": {"type": "image-classification", "name": "Image Classification"},
            "dataset": {
                "name": f"{name}, {count} images",
                "type": name,
                "split": split,
                "args": {"images": count, "sha256": sha256},
            },
            "metrics": found,
        }
        for (name, split, count, sha256), found in metrics.items()
    ]


def _file_facts(one: Verified, holdings: Holdings) -> dict[str, Yaml]:
    chosen_on = holdings.trained.told.chosen_on if holdings.trained is not None else None
    facts: dict[str, Yaml] = {"images": one.images.images, "model_sha256": holdings.model.sha256}
    return facts | ({} if chosen_on is None else {"epoch_chosen_on": chosen_on})


def _clean(one: Verified, holdings: Holdings) -> Yaml:
    summary = one.summary
    correct = sum(row.prediction == row.label for row in one.records)
    facts = {"correct": correct, **_file_facts(one, holdings)}
    return {"type": "accuracy", "value": correct / summary.images, "name": "Accuracy, no claim", "args": facts}


def _certified(one: Verified, holdings: Holdings) -> Yaml:
    summary, ball = one.summary, one.ball
    about: dict[str, Yaml] = {"claim": str(one.claim)}
    if ball is not None:
        about |= {**ball.radius.as_options(), "inputs": str(ball.inputs)}
    counts: dict[str, Yaml] = {
        "arithmetic": one.arithmetic,
        "certified": summary.certified,
        "falsified": summary.falsified,
        "unknown": summary.unknown,
        **_file_facts(one, holdings),
    }
    radius = "" if ball is None else f", radius {ball.radius}, {INPUTS[ball.inputs]}"
    return {
        "type": "certified_accuracy",
        "value": summary.certified / summary.images,
        "name": f"Certified accuracy, claim {one.claim}{radius}, arithmetic {one.arithmetic}",
        "args": {**about, **counts},
    }


def _name(holdings: Holdings) -> str:
    return holdings.metadata.network if holdings.metadata is not None else holdings.model.path.stem


def _files(holdings: Holdings) -> list[tuple[str, str, str]]:
    """Return name, meaning and checksum of each file beside the card."""
    files = [(holdings.model.path.name, "the classifier", holdings.model.sha256)]
    if holdings.guard is not None:
        file = holdings.guard.file
        files.append((file.path.name, "its guard: answers what is certified too", file.sha256))
    for one in holdings.verified:
        if one.certificate is not None:
            files.append((one.certificate.name, f"certificate, claim `{one.claim}`", one.certificate_sha256))
    return files


def _training(trained: RecordedTraining) -> list[tuple[str, str]]:
    """Return the options and results of a training, by name."""
    told = trained.told
    method = dict(told.method_options)
    if "radius" in method:
        method["radius"] = f"{method['radius']} ({method.pop('radius_scale', _UNTOLD)} scale)"
    rows: dict[str, Any] = {
        "method": told.method,
        "claim": told.claim,
        "data set": told.data,
        "images": (trained.run.data or {}).get("images", _UNTOLD),
        "network": f"{told.network}, {told.activation}",
        "cells of a pixel": "none" if told.cells is None else told.cells,
        **{f"method: {key}": value for key, value in method.items()},
        **told.training,
        "best epoch": trained.best_epoch,
        **({"epochs of its first weights": told.initial_epochs} if told.initial_epochs else {}),
    }
    if trained.validation_error is not None:
        rows[f"error of that epoch, claim {told.claim}, in per cent"] = percent(trained.validation_error)
    rows["device"] = trained.run.device
    rows["versions"] = ", ".join(f"{name} {version}" for name, version in trained.run.versions.items())
    return [(key, str(value)) for key, value in rows.items()]


def _told_training(holdings: Holdings) -> list[tuple[str, str]]:
    return [] if holdings.metadata is None else list(holdings.metadata.training_facts.items())


def _scopes(verified: Sequence[Verified], claim: Claim) -> list[str]:
    """Return what the rows of a claim say: a sentence for each kind of images that their balls hold."""
    kinds = (None if one.ball is None else one.ball.inputs for one in verified if one.claim is claim)
    return [scope(claim, kind) for kind in dict.fromkeys(kinds)]


def _table(verified: Sequence[Verified], claim: Claim) -> list[tuple[str, ...]]:
    """Return the rows of a claim: data, ball, arithmetic, counts and shares."""
    rows = []
    for one in verified:
        if one.claim is not claim:
            continue
        summary, ball = one.summary, one.ball
        about = () if ball is None else (str(ball.radius), INPUTS[ball.inputs])
        counts = map(str, (summary.images, summary.certified, summary.falsified, summary.unknown))
        low, high = summary.interval
        shares = (percent(1 - summary.verified_error), interval_percent((1 - high, 1 - low)))
        clean = percent(1 - summary.clean_error)
        rows.append((f"{one.images.name}, {one.images.split}", *about, one.arithmetic, *counts, *shares, clean))
    return rows


def _meanings(verified: Sequence[Verified]) -> list[tuple[str, str]]:
    """Return each arithmetic that a certified row holds for, with what it means."""
    rows = (row for one in verified for row in one.records if row.verdict == Verdict.CERTIFIED)
    return [(name, MEANING.get(name, "of no meaning")) for name in sorted({str(row.holds_for) for row in rows})]


def _environments(verified: Sequence[Verified]) -> list[str]:
    """Return on what verifications were run, each once."""
    told = (
        f"{one.run.device}, {one.run.provider or 'no provider'}: "
        + ", ".join(f"{name} {version}" for name, version in one.run.versions.items())
        for one in verified
    )
    return list(dict.fromkeys(told))


def _rechecks(holdings: Holdings) -> list[Any]:
    name = holdings.model.path.name
    found = [
        verification_recheck(one, name, _side(holdings, one), number)
        for number, one in enumerate(holdings.verified, start=1)
    ]
    return found + ([] if holdings.guard is None else [guard_recheck(holdings.guard, name, holdings.verified)])


def _side(holdings: Holdings, one: Verified) -> int | None:
    """Return height and width of the images; None where they are not told, or differ."""
    told: Any = (one.run.model or {}).get(PREPROCESSING)
    shape: Any = told.get("image_shape") if isinstance(told, Mapping) else None
    if holdings.metadata is not None:
        shape = holdings.metadata.image_shape
    match shape:
        case (_, int(height), int(width)) if height == width:
            return height
        case _:
            return None


def _needs_files(one: Verified) -> bool:
    entry = DATA_SETS.get(one.images.name)
    return entry is None or bool(entry.expected_files)


def shown(text: object) -> str:
    r"""Return text in one line that Markdown shows as it stands.

    >>> shown("a|b\n*c*")
    'a\\|b \\*c\\*'
    """
    return _MARKS.sub(r"\\\1", " ".join(str(text).split()))


def code(text: object) -> str:
    """Return text in one line as code, also in a table.

    >>> code("a`b")
    '`` a`b ``'
    """
    line = " ".join(str(text).split()).replace("|", "\\|")
    return f"`` {line} ``" if "`" in line else f"`{line}`"
