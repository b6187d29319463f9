"""What rules of larger nodes are put together from: steps on any value of a node that is being taken up."""

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from abscert_plugin.bounds.proof.activations import Function
from abscert_plugin.bounds.proof.affine import Affine, Join, Shift
from abscert_plugin.bounds.proof.building import View
from abscert_plugin.bounds.proof.constants import exactly, reciprocal, reshaped, weights
from abscert_plugin.bounds.proof.descent import Step, Unary
from abscert_plugin.bounds.proof.enclosure import Enclosure, held
from abscert_plugin.bounds.proof.maps import Mean, Scale
from abscert_plugin.bounds.proof.moves import Move
from abscert_plugin.bounds.proof.nonlinear import Activation
from abscert_plugin.bounds.proof.pairs import Product, corners, squares
from abscert_plugin.graph.walk import need


def shape_of(view: View, name: str) -> tuple[int, ...]:
    """Return the shape of a value, without the batch."""
    return tuple(view.walk.values[name].lower.shape[1:])


def function_of(view: View, source: str, function: Function, output: str | None = None) -> str:
    """Give a function of each entry."""
    return view.walk.append(Activation(output or view.part(), source, function))


def product_of(view: View, first: str, second: str, output: str | None = None) -> str:
    """Give the product of pairs of entries."""
    shape = np.broadcast_shapes(shape_of(view, first), shape_of(view, second))
    first, second = (expanded(view, name, shape) for name in (first, second))
    return view.walk.append(Product(output or view.part(), first, second, torch.mul, 1, corners))


def square_of(view: View, source: str, output: str | None = None) -> str:
    """Give squares of entries; where they make a variance, a runtime may find it from means of squares."""
    spread = _difference_from_mean(view, source)
    return view.walk.append(Product(output or view.part(), source, source, torch.mul, 1, squares, spread=spread))


def _difference_from_mean(view: View, name: str) -> tuple[str, str, int] | None:
    steps = {step.output: step for step in view.walk.steps}
    made = _behind_nothing(steps, name, shape_of(view, name))
    if not isinstance(made, Join):
        return None
    mean = _behind_nothing(steps, made.second, shape_of(view, made.second))
    while isinstance(mean, Move):
        mean = _behind_nothing(steps, mean.input, shape_of(view, mean.input))
    if not isinstance(mean, Affine) or not isinstance(mean.map, Mean):
        return None
    return made.first, made.second, mean.map.products


def _behind_nothing(steps: Mapping[str, Step], name: str, shape: tuple[int, ...]) -> Step | None:
    """Return the step that gives a value of a shape, before those that change nothing, which runtimes leave out."""
    step = steps.get(name)
    while step is not None and _changes_nothing(step, shape):
        assert isinstance(step, Unary)
        step = steps.get(step.input)
    return step


def _changes_nothing(step: Step, shape: tuple[int, ...]) -> bool:
    if isinstance(step, Move):
        places = torch.arange(1, prod(shape) + 1, dtype=torch.float64).reshape(1, *shape)
        try:
            return torch.equal(step.move(places), places)
        except RuntimeError:  # it moves entries of another shape
            return False
    if isinstance(step, Shift):
        return step.sign == 1 and (step.bias is None or not bool(step.bias.magnitude.any()))
    if isinstance(step, Affine) and isinstance(step.map, Scale) and step.bias is None:
        weights = step.map.weights
        return weights.are_numbers and bool((weights.center == 1).all())
    return False


def mean_of(
    view: View, source: str, axes: Sequence[int], keeps: bool = True, is_sum: bool = False, output: str | None = None
) -> str:
    """Give means, or sums, over axes that are counted with the batch."""
    count, places = prod(shape_of(view, source)[axis - 1] for axis in axes), list(axes)
    need(bool(places) and min(places) > 0, "expected axes, and the images of a batch to stay apart")

    def summed(values: Tensor) -> Tensor:
        return values.sum(places, keepdim=keeps)

    divisor = torch.full((1,), 1.0 if is_sum else float(count), dtype=torch.float64)
    mean = Mean(summed, exactly(1.0) if is_sum else reciprocal(held(divisor, divisor, is_constant=True)), count)
    return view.walk.append(Affine(output or view.part(), source, mean, peak=2.0 * count))


def scaled_by(view: View, source: str, factor: Enclosure | float, output: str | None = None) -> str:
    """Give products with a constant that goes with the value by broadcasting."""
    scale = Scale(weights(factor) if isinstance(factor, Enclosure) else exactly(factor))
    return view.walk.append(Affine(output or view.part(), source, scale))


def divided_by(view: View, source: str, count: int, output: str | None = None) -> str:
    """Give quotients by a whole number, or products with its reciprocal."""
    number = torch.full((1,), float(count), dtype=torch.float64)
    divisor = reciprocal(held(number, number, is_constant=True))
    return view.walk.append(Affine(output or view.part(), source, Scale(divisor)))


def shifted_by(view: View, source: str, bias: Enclosure | float, output: str | None = None) -> str:
    """Give sums with a constant that goes with the value by broadcasting."""
    if not isinstance(bias, Enclosure):
        number = torch.full((1,) * (len(shape_of(view, source)) + 1), bias, dtype=torch.float64)
        bias = held(number, number, is_constant=True)
    return view.walk.append(Shift(output or view.part(), source, 1, bias))


def difference_of(view: View, first: str, second: str) -> str:
    """Give the differences of two values."""
    second = expanded(view, second, shape_of(view, first))
    return view.walk.append(Join(view.part(), first, second, -1))


def expanded(view: View, name: str, shape: Sequence[int]) -> str:
    """Give a value with entries repeated to a shape."""
    if shape_of(view, name) == tuple(shape):
        return name
    return view.move(name, lambda values: values.expand(len(values), *shape))


def fitted(constant: Enclosure, rank: int) -> Enclosure:
    """Return a constant with as many axes as values of a rank, the batch among them."""
    given = tuple(constant.lower.shape)
    need(len(given) <= rank, f"expected a constant of {rank} axes at most, got {given}")
    need(len(given) < rank or given[0] == 1, "expected the same constant for all images")
    return reshaped(constant, (1,) * (rank - len(given)) + given)


def as_values(view: View, places: Sequence[int]) -> list[str]:
    """Return values of one shape for what a node reads at some places, constants among them."""
    names = {place: view.name(place) for place in places if not view.is_constant(place)}
    ranks = {len(shape_of(view, name)) + 1 for name in names.values()}
    need(len(ranks) == 1, "expected values of one rank")
    rank = ranks.pop()
    constants = {place: fitted(_number(view, place), rank) for place in places if place not in names}
    shape = np.broadcast_shapes(
        *(shape_of(view, name) for name in names.values()), *(one.lower.shape[1:] for one in constants.values())
    )
    source = next(iter(names.values()))
    made = {place: expanded(view, name, shape) for place, name in names.items()}
    for place, constant in constants.items():
        made[place] = shifted_by(view, view.move(source, _zeros(tuple(shape))), constant)
    return [made[place] for place in places]


def _number(view: View, place: int) -> Enclosure:
    """Return a constant; truth values as 0 and 1."""
    name = view.node.inputs[place]
    if name in view.walk.arrays and view.walk.arrays[name].dtype == np.bool_:
        values = torch.from_numpy(view.walk.arrays[name].astype(np.float64))
        return held(values, values, is_constant=True)
    return view.constant(place)


def _zeros(shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    def zeros(values: Tensor) -> Tensor:
        one = values.flatten(1)[:, :1] * 0.0
        return one.reshape(-1, *(1 for _ in shape)).expand(len(values), *shape)

    return zeros
