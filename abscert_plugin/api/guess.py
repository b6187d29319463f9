"""What is verified where options are left out: the claim, radius and data set that the model itself names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

import onnx

from abscert_plugin.api.radii import need_radius
from abscert_plugin.artifact.metadata import INTERVAL, read_metadata
from abscert_plugin.artifact.third_party import is_of_this_project
from abscert_plugin.claim import Claim, Radius, RadiusScale
from abscert_plugin.errors import ConfigError

DEFAULT_DATA: Final = "digits"
_TOLD_RADIUS: Final = re.compile(r"([\d/]+) \((pixel|training) scale\)")


@final
@dataclass(frozen=True, slots=True)
class ToldByModel:
    """What a model says of its training.

    Args:
        data: the data set's name; None where it says none.
        claim: the claim that it was trained for; None where it says none.
        radius: of the ball that it was trained for; None where it names none.
        has_cells: whether the claim `cell` has a meaning for it.
        is_abstract: whether it takes interval images, for which the claim `cell` alone has a meaning.
    """

    data: str | None = None
    claim: Claim | None = None
    radius: Radius | None = None
    has_cells: bool = False
    is_abstract: bool = False


@final
@dataclass(frozen=True, slots=True)
class Taken:
    """What is verified.

    Args:
        data: the data set's name.
        claim: what to decide.
        radius: of the ball, on the scale `scale`, as it is written; None for the claim `cell`.
        scale: of the radius.
        note: a line that says what was not given and where it comes from; empty where all was given.
    """

    data: str
    claim: Claim
    radius: str | None
    scale: RadiusScale
    note: str


def told_by(model: onnx.ModelProto, path: Path) -> ToldByModel:
    """Return what a model says of its training; nothing of a file of others.

    Raises:
        UnsupportedModelError: if its metadata have no meaning.
    """
    if not is_of_this_project(model):
        return ToldByModel()
    metadata = read_metadata(model, path)
    facts: Mapping[str, str] = MappingProxyType(dict(metadata.training_facts))
    claim = facts.get("claim")
    return ToldByModel(
        metadata.trained_on,
        Claim(claim) if claim in list(Claim) else None,
        _radius(facts.get("radius", "")),
        metadata.grid is not None,
        model.graph.input[0].name == INTERVAL,
    )


def _radius(text: str) -> Radius | None:
    found = _TOLD_RADIUS.fullmatch(text)
    return None if found is None else Radius.parse(found[1], RadiusScale(found[2]))


def asked_of(
    model: Path, told: ToldByModel, data: str | None, claim: str | None, radius: str | None, scale: RadiusScale
) -> Taken:
    """Return what is verified, by the options that were given, and for the others by what the model says.

    Without a claim, a radius asks for a ball; without both, it is the claim that the model was trained for, a ball only
    with the radius that it was trained for. The two claims are never mixed: a line names the one that was taken.

    Args:
        model: the file, for messages.
        told: what it says.
        data: what --data says; None where it was left out, as for those that follow.
        claim: what --claim says.
        radius: what --radius says.
        scale: that of the radius.

    Raises:
        ConfigError: if the options contradict each other, or nothing says a radius.
    """
    need_radius(radius, scale)
    if radius is not None and claim == Claim.CELL:
        raise ConfigError("expected --radius with --claim ball alone: the claim cell has none")
    taken = {} if data is not None or told.data is None else {"data set": told.data}
    chosen = Claim(claim) if claim is not None else Claim.BALL if radius is not None else _claim(told)
    if claim is None and radius is None:
        taken["claim"] = chosen.value
    if chosen is Claim.BALL and radius is None:
        if told.radius is None:
            wrapping = "" if told.has_cells else "; `abscert wrap` gives it cells"
            raise ConfigError(
                f"expected --radius for the claim ball: {model} does not say for which it was trained{wrapping}"
            )
        radius, scale = told.radius.written, told.radius.scale
        taken["radius"] = f"{radius} on the {scale} scale"
    named = ", ".join(f"the {name} {value}" for name, value in taken.items())
    notes = [f"taking {named}, as the model says"] if named else []
    if data is None and told.data is None:
        notes.append(f"the model names no data set; taking {DEFAULT_DATA}, choose another with --data")
    note = f"note: {'; '.join(notes)}" if notes else ""
    return Taken(data or told.data or DEFAULT_DATA, chosen, radius, scale, note)


def _claim(told: ToldByModel) -> Claim:
    if told.is_abstract:
        return Claim.CELL
    if told.has_cells and (told.claim is not Claim.BALL or told.radius is None):
        return Claim.CELL
    return Claim.BALL
