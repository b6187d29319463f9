"""Options of training methods, and the method and grid that they ask for."""

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from abscert_plugin.claim import Radius, RadiusScale
from abscert_plugin.errors import ConfigError

if TYPE_CHECKING:
    from abscert_plugin.training.method import Method

MethodName: TypeAlias = Annotated[
    str, typer.Option("--method", help="abstrain (Algorithm 2) or reachable (sound training for a ball).")
]
TrainingRadius: TypeAlias = Annotated[
    str | None, typer.Option("--radius", help="reachable: the ball to train for, such as 0.1 or 8/255.")
]
Edges: TypeAlias = Annotated[
    str, typer.Option("--edges", help="uniform, quantile or sparse (few pixels within --radius of an edge).")
]
RobustLossName: TypeAlias = Annotated[
    str | None, typer.Option("--robust-loss", help="reachable: interval, mtl-ibp or sabr.  [default: interval]")
]
BoundsName: TypeAlias = Annotated[
    str | None, typer.Option("--bounds", help="reachable: interval or crown-ibp.  [default: interval]")
]
Share: TypeAlias = Annotated[
    float | None, typer.Option("--share", help="reachable: weight of the interval loss (mtl-ibp), box size (sabr).")
]
NaturalEnd: TypeAlias = Annotated[
    float | None, typer.Option("--natural-end", help="reachable: weight of the loss on own cells at the end.")
]
Ramp: TypeAlias = Annotated[
    float | None, typer.Option("--ramp", help="reachable: share of the epochs in which the radius rises.")
]
Regulariser: TypeAlias = Annotated[
    float | None, typer.Option("--regulariser", help="reachable: weight of the warm-up regulariser.")
]


def chosen_method(name: str, radius: Radius | None, chosen: dict[str, Any]) -> "Method":
    """Return the training method of this name with its options.

    Args:
        name: `abstrain` or `reachable`.
        radius: the ball to train for.
        chosen: the other options, None where they were not given.

    Raises:
        ConfigError: if the name is unknown, an option has no meaning, or it belongs to another method.
    """
    from abscert_plugin.training.method import ABSTRAIN, ReachableMethod
    from abscert_plugin.training.robust import BoundKind, RobustConfig, RobustLoss

    given = {key: value for key, value in chosen.items() if value is not None}
    if name == "abstrain":
        if given:
            options = ", ".join(f"--{key.replace('_', '-')}" for key in given)
            raise ConfigError(f"expected {options} with --method reachable only, got --method abstrain")
        return ABSTRAIN
    if name != "reachable":
        raise ConfigError(f"expected --method abstrain or reachable, got {name!r}")
    if radius is None:
        raise ConfigError("expected a --radius with --method reachable: the ball to train for")
    if "robust_loss" in given:
        given["loss"] = member(RobustLoss, "robust-loss", given.pop("robust_loss"))
    if "bounds" in given:
        given["bounds"] = member(BoundKind, "bounds", given["bounds"])
    return ReachableMethod(RobustConfig(radius, **given))


def chosen_radius(text: str | None, scale: RadiusScale) -> Radius | None:
    """Return the radius that was given, if one was.

    Raises:
        ConfigError: if it is not a radius.
    """
    return None if text is None else Radius.parse(text, scale)


def member(kind: Any, option: str, value: str) -> Any:
    """Return the member of an enumeration that an option names.

    Raises:
        ConfigError: if there is none; the message lists those there are.
    """
    try:
        return kind(value)
    except ValueError as error:
        raise ConfigError(f"expected --{option} of {', '.join(kind)}, got {value!r}") from error
