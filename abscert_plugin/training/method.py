"""What a training method's options are to the code that runs it, and its row in the table of methods."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import EnumType
from typing import Any, Final, Protocol, final, get_type_hints, runtime_checkable

import msgspec
import torch
from torch import nn

from abscert_plugin.choices import did_you_mean, expected_one_of
from abscert_plugin.claim import Radius
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid
from abscert_plugin.networks import Activation
from abscert_plugin.training.objective import Objective
from abscert_plugin.training.options import GRADIENT_CLIP, PATIENCE, OptionFacts, facts_of
from abscert_plugin.wording import plain_words

_RADIUS: Final = "radius"


@runtime_checkable
class Method(Protocol):
    """A training method with its options: a value that can be stored, compared, and built into an objective."""

    @property
    def claim(self) -> str:
        """What it trains for: a claim, `cell` or `ball`, or `clean` or `attacked`, which claim nothing."""
        ...

    @property
    def takes_intervals(self) -> bool:
        """Whether its networks take interval images, or the images themselves."""
        ...

    def prepare(self, network: nn.Module) -> None:
        """Change a new network before it is trained, such as its first weights; most methods leave it."""
        ...

    def build(self, grid: Grid | None, levels: int, device: torch.device) -> Objective:
        """Return the objective for images of these levels.

        Args:
            grid: the cells; None exactly where the network takes the images themselves.
            levels: the stored pixel value that stands for 1.0 on the pixel scale.
            device: where the images are.
        """
        ...

    def describe(self) -> Mapping[str, Any]:
        """Return the options, for a checkpoint and run.json."""
        ...


def is_method(options: Method) -> Method:
    """Return options that are a method by themselves."""
    return options


@final
@dataclass(frozen=True, slots=True)
class MethodEntry:
    """A row of the table of methods.

    Args:
        name: the method's name.
        summary: what it does, in one line.
        source: the paper.
        options: a frozen dataclass of its options; its field `radius`, if it has one, is the ball to train for.
        method: makes the method out of the options; by default they are a `Method` themselves.
        activation: the activation function that its networks have where nothing else is asked for.
        patience: `TrainingConfig.patience` where nothing else is asked for; None is the data set's own. A loss that
            rises with the radius is no reason to end: 0.
        gradient_clip: `TrainingConfig.gradient_clip` likewise; 10 as in the code of Shi et al. 2021.
        step_cost: about how many steps of plain training one of its steps takes, on average over all epochs; None has
            it timed where somebody asks how long a run takes.
    """

    name: str
    summary: str
    source: str
    options: type[Any]
    method: Callable[[Any], Method] = is_method
    activation: Activation = Activation.RELU
    patience: int | None = PATIENCE
    gradient_clip: float | None = GRADIENT_CLIP
    step_cost: float | None = None

    @property
    def option_names(self) -> tuple[str, ...]:
        """The options besides the radius."""
        return tuple(field.name for field in dataclasses.fields(self.options) if field.name != _RADIUS)

    @property
    def option_facts(self) -> tuple[OptionFacts, ...]:
        """The options besides the radius, with their meaning, default and range."""
        return tuple(facts for facts in facts_of(self.options) if facts.name != _RADIUS)

    @property
    def takes_radius(self) -> bool:
        """Whether it trains for a ball, or attacks one."""
        return any(field.name == _RADIUS for field in dataclasses.fields(self.options))

    def create(self, radius: Radius | None, given: Mapping[str, str]) -> Method:
        """Return the method for a radius and options in text, such as `{"share": "0.3"}`.

        Args:
            radius: the ball to train for; left aside by a method that takes none.
            given: the other options.

        Raises:
            ConfigError: if an option is unknown, its value has no meaning, or a radius is needed and not given.
        """
        unknown = [name for name in given if name not in self.option_names]
        if unknown:
            known = ", ".join(self.option_names) or "no options"
            guess = did_you_mean(unknown[0], self.option_names)
            raise ConfigError(f"{self.name} has no option {unknown[0]!r}; it has {known}{guess}")
        values = {name: self.read_option(name, text, name) for name, text in given.items()}
        if self.takes_radius:
            if radius is None:
                raise ConfigError(f"expected a --radius with --method {self.name}: the ball to train for")
            values[_RADIUS] = radius
        return self.method(self.options(**values))

    def read_option(self, name: str, text: str, shown: str) -> Any:
        """Return the value of an option that a text gives.

        Args:
            name: one of `option_names`.
            text: its value.
            shown: what a message calls it.

        Raises:
            ConfigError: if the text has no meaning there.
        """
        kind = get_type_hints(self.options)[name]
        try:
            return msgspec.convert(text, kind, strict=False)
        except msgspec.ValidationError as error:
            if isinstance(kind, EnumType):
                raise ConfigError(f"{self.name}: {expected_one_of(shown, kind, text)}") from error
            raise ConfigError(
                f"{self.name}: expected another value of {shown}, got {text!r}: {plain_words(error)}"
            ) from error
