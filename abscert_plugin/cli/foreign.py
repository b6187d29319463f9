"""Options that say how an ONNX file that this project did not make reads images."""

from typing import Annotated, Any, TypeAlias

import typer

from abscert_plugin.choices import member
from abscert_plugin.cli import manual
from abscert_plugin.errors import ConfigError
from abscert_plugin.preprocessing import InputScale, Layout, Opening


def _reading(*names: str, **settings: Any) -> Any:
    return typer.Option(*names, rich_help_panel=manual.MODEL_INPUT, **settings)


ImageShape: TypeAlias = Annotated[
    str | None,
    _reading(
        "--image-shape",
        help="Sizes of an image.  [default: those of the data, or of the model's input]",
        metavar="C,H,W",
    ),
]
LayoutName: TypeAlias = Annotated[
    str | None, _reading("--layout", help="nchw, nhwc or flat.  [default: by the model's input]", metavar="NAME")
]
InputRange: TypeAlias = Annotated[
    str | None,
    _reading(
        "--input-range",
        help="What pixel 0 and pixel 1 are to the model: 0,255 or -1,1.  [default: 0,1]",
        metavar="LOW,HIGH",
    ),
]
Mean: TypeAlias = Annotated[
    str | None, _reading("--mean", help="Subtracted, one value or one per channel.  [default: 0]", metavar="X[,X,X]")
]
Std: TypeAlias = Annotated[
    str | None, _reading("--std", help="Divided by, one value or one per channel.  [default: 1]", metavar="X[,X,X]")
]
Output: TypeAlias = Annotated[
    str | None, _reading("--output", help="Which output holds the logits.  [default: the only one]", metavar="NAME")
]
Constants: TypeAlias = Annotated[
    list[str] | None,
    _reading("--constant", help="Value of an input that is no image; may be repeated.", metavar="NAME=VALUE"),
]


def opening(
    image_shape: str | None,
    layout: str | None,
    input_range: str | None,
    mean: str | None,
    std: str | None,
    output: str | None,
    constants: list[str] | None = None,
) -> Opening | None:
    """Return how a file of others is to be read; None where no option says anything.

    Raises:
        ConfigError: if an option has no meaning.
    """
    if all(given is None for given in (image_shape, layout, input_range, mean, std, output, constants)):
        return None
    low, high = _numbers("--input-range", "0,1" if input_range is None else input_range, 2)
    chosen = None if layout is None else member(Layout, "layout", layout)
    return Opening(
        None if image_shape is None else _shape(image_shape),
        chosen,
        InputScale(
            (low, high),
            _numbers("--mean", "0" if mean is None else mean),
            _numbers("--std", "1" if std is None else std),
        ),
        output,
        dict(map(_constant, constants or [])),
    )


def _numbers(option: str, text: str, count: int | None = None) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"expected {option} as numbers joined by commas, got {text!r}") from error
    if count is not None and len(values) != count:
        raise ConfigError(f"expected {count} numbers in {option}, got {text!r}")
    return values


def _shape(text: str) -> tuple[int, int, int]:
    try:
        channels, height, width = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"expected --image-shape as C,H,W, such as 3,224,224, got {text!r}") from error
    return channels, height, width


def _constant(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError as error:
        raise ConfigError(f"expected --constant as NAME=NUMBER, got {text!r}") from error
