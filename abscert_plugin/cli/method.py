"""Options of training methods, and the values that they ask for."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from abscert_plugin.api.radii import need_radius
from abscert_plugin.claim import Radius, RadiusScale
from abscert_plugin.cli import completion, manual
from abscert_plugin.errors import ConfigError

if TYPE_CHECKING:
    from abscert_plugin.training.method import MethodEntry

MethodName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--method",
        help="{methods}; `abscert baseline list` says what each does.",
        metavar="NAME",
        rich_help_panel=manual.METHOD,
        autocompletion=completion.method,
    ),
]
Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="An option of the method, such as share=0.3; may be repeated. `abscert baseline list METHOD` has them.",
        metavar="NAME=VALUE",
        rich_help_panel=manual.METHOD,
    ),
]
TrainingRadius: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--radius",
        help="The ball to train for, such as 0.1 or 8/255, if the method has one.  [default: none]",
        metavar="R",
        rich_help_panel=manual.CLAIM,
    ),
]
MethodActivation: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--activation",
        help="{activations}.  [default: by the method]",
        metavar="NAME",
        rich_help_panel=manual.NETWORK,
        autocompletion=completion.activation,
    ),
]
Edges: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--edges",
        help="uniform, quantile or sparse (few pixels within --radius of an edge).  [default: uniform]",
        metavar="NAME",
        rich_help_panel=manual.METHOD,
        autocompletion=completion.edges,
    ),
]


def _setting(name: str, meaning: str, kind: str) -> Any:
    """Return an option that stands for one of the method's."""
    inner = "loss" if name == "robust-loss" else name.replace("-", "_")
    return typer.Option(
        f"--{name}",
        help=f"As --set {inner}=; {meaning}.  [default: by the method]",
        metavar=kind,
        rich_help_panel=manual.ADVANCED,
    )


RobustLossName: TypeAlias = Annotated[
    str | None, _setting("robust-loss", "reachable: interval, mtl-ibp or sabr", "NAME")
]
BoundsName: TypeAlias = Annotated[str | None, _setting("bounds", "reachable: interval or crown-ibp", "NAME")]
Share: TypeAlias = Annotated[
    float | None, _setting("share", "weight of the interval loss (mtl-ibp), box size (sabr)", "X")
]
NaturalEnd: TypeAlias = Annotated[float | None, _setting("natural-end", "weight of the images' own loss, at last", "X")]
Ramp: TypeAlias = Annotated[float | None, _setting("ramp", "share of the epochs in which the radius rises", "X")]
Regulariser: TypeAlias = Annotated[float | None, _setting("regulariser", "weight of the warm-up regulariser", "X")]


def chosen_settings(
    entry: "MethodEntry", settings: Sequence[str], flags: Mapping[str, str | float | None]
) -> dict[str, str]:
    """Return the method's options in text, by name.

    Args:
        entry: the method.
        settings: what was given with `--set`, as NAME=VALUE.
        flags: options of the command that stand for one of the method's; None where they were not given.

    Raises:
        ConfigError: if one is not NAME=VALUE, is given twice, or has a flag and is none of the method's.
    """
    from abscert_plugin.training.methods import users_of

    pairs: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name in pairs:
            raise ConfigError(f"expected --set NAME=VALUE, each name once, got {setting!r}")
        pairs[name] = value
    for flag, given in flags.items():
        name = "loss" if flag == "robust_loss" else flag
        shown = f"--{flag.replace('_', '-')}"
        if given is None:
            continue
        if name not in entry.option_names:
            raise ConfigError(f"expected {shown} with --method {users_of(name)} only, got --method {entry.name}")
        if name in pairs:
            raise ConfigError(f"expected {shown} or --set {name}=, got both; they say the same thing")
        entry.read_option(name, str(given), shown)
        pairs[name] = str(given)
    return pairs


def chosen_radius(text: str | None, scale: RadiusScale) -> Radius | None:
    """Return the radius that was given, if one was.

    Raises:
        ConfigError: if it is not a radius, or a scale was given without one.
    """
    need_radius(text, scale)
    return None if text is None else Radius.parse(text, scale)
