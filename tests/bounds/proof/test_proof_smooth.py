"""Functions of one entry: ends, lines and assumed errors against samples, onnxruntime and float32 step by step."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from abscert_plugin.bounds.proof import functions as known
from abscert_plugin.bounds.proof.smooth import Error, Smooth

Tensor = torch.Tensor
COUNT = 600
SAMPLES = 201
REACH = {"tan": (-1.5, 1.5), "exp": (-60.0, 80.0), "softplus": (-60.0, 80.0)}
POSITIVE = {"log", "sqrt", "inverse root", "power 0.5", "power 1.5", "power -0.5"}
NOT_0 = {"reciprocal", "power -1", "power -2"}
FUNCTIONS: dict[str, Smooth] = {
    "celu": known.celu(0.6),
    "cos": known.COS,
    "elu": known.elu(1.7),
    "elu, falling": known.elu(-0.5),
    "erf": known.ERF,
    "exp": known.EXP,
    "gelu": known.GELU,
    "gelu, tanh": known.GELU_TANH,
    "hard sigmoid": known.hard_sigmoid(0.2, 0.5),
    "hard sigmoid, falling": known.hard_sigmoid(-0.7, 0.3),
    "hard swish": known.HARD_SWISH,
    "inverse root": known.INVERSE_ROOT,
    "log": known.LOG,
    "mish": known.MISH,
    "reciprocal": known.RECIPROCAL,
    "selu": known.elu(1.6732631921768188, 1.0507010221481323),
    "sin": known.SIN,
    "softplus": known.SOFTPLUS,
    "softsign": known.SOFTSIGN,
    "sqrt": known.SQRT,
    "swish": known.SWISH,
    "swish, steep": known.swish(-1.7),
    "tan": known.TAN,
    **{f"power {exponent}": known.power(float(exponent)) for exponent in (3, 4, 5, -1, -2, 0.5, 1.5, -0.5)},
}


def boxes(name: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return ends of intervals of many widths, within the function's domain."""
    chance = torch.Generator().manual_seed(seed)
    center = torch.randn(COUNT, 1, dtype=torch.float64, generator=chance) * 3
    width = 10 ** (torch.rand(COUNT, 1, dtype=torch.float64, generator=chance) * 4 - 3)
    lower, upper = center - width / 2, center + width / 2
    if name in POSITIVE | NOT_0:
        lower = lower.abs() + 1e-2
        upper = lower + width
        if name in POSITIVE & {"sqrt", "power 0.5", "power 1.5"}:
            lower[::9] = 0
        if name in NOT_0:
            lower[::2], upper[::2] = -upper[::2], -lower[::2]
    least, most = REACH.get(name, (-1e3, 1e3))
    lower, upper = lower.clamp(least, most), upper.clamp(least, most)
    lower[::7] = upper[::7]
    return lower, upper


def points_of(lower: Tensor, upper: Tensor) -> Tensor:
    share = torch.linspace(0, 1, SAMPLES, dtype=torch.float64)
    return torch.minimum(torch.maximum(lower + (upper - lower) * share, lower), upper)


def escape(name: str, function: Smooth) -> float:
    """Return by how much values with their errors leave ends or lines, at most; of any slopes."""
    lower, upper = boxes(name)
    points = points_of(lower, upper)
    exact = FUNCTIONS[name].value(points)
    error = FUNCTIONS[name].error.at(exact, points)
    least, most = function.interval(lower, upper)
    worst = float(torch.maximum(least - (exact - error), exact + error - most).max())
    drawn = torch.randn(2, COUNT, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for below, above in (function.slopes(lower, upper), (drawn[0], drawn[1])):
        start, end = function.offsets(lower, upper, below, above)
        assert bool(start.isfinite().all() & end.isfinite().all())
        under, over = below * points + start - (exact - error), exact + error - above * points - end
        worst = max(worst, float(torch.maximum(under, over).max()))
    return worst


@pytest.mark.parametrize("name", FUNCTIONS)
def test_ends_and_lines_enclose_a_function_and_its_error(name: str) -> None:
    assert escape(name, FUNCTIONS[name]) <= 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_lines_of_its_own_slopes_leave_little_room(name: str) -> None:
    lower, upper = boxes(name)
    function, middle, width = FUNCTIONS[name], (lower + upper) / 2, upper - lower
    below, above = function.slopes(lower, upper)
    start, end = function.offsets(lower, upper, below, above)
    least, most = function.interval(lower, upper)
    room = (above - below) * middle + end - start
    is_wide = width > 1e-2
    assert bool((room <= 1.6 * (most - least) + 1e-5)[is_wide].all())
    share = float((room / (most - least).clamp(min=1e-9))[is_wide].median())
    assert share < (1.01 if "hard" in name else 0.5)  # between kinks that are far apart little is won


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_second_derivative_exceeds_its_bound(name: str) -> None:
    function = FUNCTIONS[name]
    lower, upper = boxes(name)
    points = points_of(lower, upper).detach().requires_grad_()
    (slope,) = torch.autograd.grad(function.value(points).sum(), points, create_graph=True)
    second = torch.zeros_like(points)
    if slope.requires_grad:
        (second,) = torch.autograd.grad(slope.sum(), points)
    bend = function.bend(lower, upper).detach()
    is_inside = (points != 0) & second.isfinite()
    for kink in function.kinks:
        is_inside &= (points - kink).abs() > 1e-9
    assert bool((second.abs() <= bend * (1 + 1e-9) + 1e-9)[is_inside.expand_as(second)].all())


CHANGES: dict[str, tuple[str, Callable[[Smooth], Smooth]]] = {
    "curvature": ("gelu", lambda function: replace(function, bend=lambda lower, _: torch.zeros_like(lower))),
    "a kink": ("selu", lambda function: replace(function, kinks=())),
    "a turn": ("mish", lambda function: replace(function, turns=lambda *_: ())),
    "a wave's turns": ("sin", lambda function: replace(function, turns=lambda *_: ())),
    "the error": ("exp", lambda function: replace(function, error=Error())),
}


@pytest.mark.parametrize("part", CHANGES)
def test_a_function_without_a_part_is_seen(part: str) -> None:
    name, change = CHANGES[part]
    assert escape(name, change(FUNCTIONS[name])) > 0


def test_nothing_is_known_outside_of_a_domain() -> None:
    for name, ends in (
        ("log", (-1.0, 2.0)),
        ("log", (0.0, 1.0)),
        ("sqrt", (-1e-9, 1.0)),
        ("reciprocal", (-1.0, 2.0)),
        ("exp", (0.0, 89.0)),
        ("softplus", (0.0, 89.0)),
        ("power 1.5", (-1.0, 1.0)),
        ("sin", (0.0, 1e7)),
        ("gelu", (0.0, 2e38)),
        ("tan", (1.0, 2.0)),
    ):
        lower, upper = (torch.tensor([[end]], dtype=torch.float64) for end in ends)
        function = FUNCTIONS[name]
        nothing = [-torch.inf, torch.inf]
        assert [float(end) for end in function.interval(lower, upper)] == nothing
        zero = torch.zeros_like(lower)
        assert [float(end) for end in function.offsets(lower, upper, zero, zero)] == nothing


# --- computed values -------------------------------------------------------------------------------------------------

f32 = np.float32


def softplus_32(points: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.log(np.exp(points) + f32(1))
    return found


def erf_32(points: np.ndarray) -> np.ndarray:
    return torch.erf(torch.from_numpy(points)).numpy()


STEP_BY_STEP: dict[str, list[Callable[[np.ndarray], np.ndarray]]] = {
    "gelu": [
        lambda x: x * f32(0.5) * (f32(1) + erf_32(x / f32(2**0.5))),
        lambda x: f32(0.5) * (x * (erf_32(x * f32(0.5**0.5)) + f32(1))),
    ],
    "gelu, tanh": [
        lambda x: f32(0.5) * x * (f32(1) + np.tanh(f32((2 / np.pi) ** 0.5) * (x + f32(0.044715) * x * x * x))),
        lambda x: x * (f32(0.5) + f32(0.5) * np.tanh(x * (f32(0.035677408137) * x * x + f32(0.7978845608)))),
    ],
    "softplus": [softplus_32, lambda x: np.maximum(x, f32(0)) + np.log1p(np.exp(-np.abs(x)))],
    "mish": [lambda x: x * np.tanh(softplus_32(x))],
    "hard swish": [
        lambda x: x * np.clip(x * f32(1 / 6) + f32(0.5), f32(0), f32(1)),
        lambda x: x * np.clip(x + f32(3), f32(0), f32(6)) / f32(6),
    ],
    "swish": [lambda x: x / (f32(1) + np.exp(-x)), lambda x: x * torch.sigmoid(torch.from_numpy(x)).numpy()],
    "swish, steep": [
        lambda x: x / (f32(1) + np.exp(f32(1.7) * x)),
        lambda x: x * (f32(1) / (f32(1) + np.exp(x * f32(1.7)))),
    ],
    "elu": [lambda x: np.where(x > 0, x, f32(1.7) * (np.exp(np.minimum(x, f32(0))) - f32(1)))],
    "celu": [lambda x: np.where(x > 0, x, f32(0.6) * (np.exp(np.minimum(x, f32(0)) / f32(0.6)) - f32(1)))],
    "softsign": [lambda x: x / (f32(1) + np.abs(x)), lambda x: x * (f32(1) / (np.abs(x) + f32(1)))],
    "inverse root": [lambda x: f32(1) / np.sqrt(x), lambda x: np.sqrt(f32(1) / x)],
    "power 3": [lambda x: x * x * x, lambda x: np.power(x, f32(3))],
    "power -2": [lambda x: f32(1) / (x * x), lambda x: np.power(x, f32(-2))],
    "power 1.5": [lambda x: x * np.sqrt(x), lambda x: np.power(x, f32(1.5))],
}
OPERATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "celu": ("Celu", {"alpha": 0.6}),
    "cos": ("Cos", {}),
    "elu": ("Elu", {"alpha": 1.7}),
    "erf": ("Erf", {}),
    "exp": ("Exp", {}),
    "gelu": ("Gelu", {}),
    "gelu, tanh": ("Gelu", {"approximate": "tanh"}),
    "hard sigmoid": ("HardSigmoid", {"alpha": 0.2, "beta": 0.5}),
    "hard swish": ("HardSwish", {}),
    "log": ("Log", {}),
    "mish": ("Mish", {}),
    "reciprocal": ("Reciprocal", {}),
    "selu": ("Selu", {}),
    "sin": ("Sin", {}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "sqrt": ("Sqrt", {}),
    "tan": ("Tan", {}),
}


def numbers(name: str) -> np.ndarray:
    """Return float32 arguments of many sizes."""
    chance = np.random.default_rng(0)
    sizes = 10 ** chance.uniform(-6, 1.9, 40_000) * chance.choice([-1, 1], 40_000)
    found = np.concatenate([sizes, chance.standard_normal(40_000) * 3]).astype(np.float32)
    if name in POSITIVE:
        return np.abs(found)
    least, most = REACH.get(name, (-80.0, 80.0))
    return np.clip(found, max(least, -80.0), min(most, 80.0)).astype(np.float32)


def share_of_error(name: str, found: np.ndarray, points: np.ndarray, function: Smooth) -> float:
    """Return the largest error of computed values, as a share of what is assumed."""
    wide = torch.from_numpy(points).double()
    exact = function.value(wide)
    error = (torch.from_numpy(found).double() - exact).abs() - 2.0**-126
    return float((error / function.error.at(exact, wide).clamp(min=1e-300)).max())


@pytest.mark.parametrize("name", OPERATORS)
def test_onnxruntime_keeps_to_the_assumed_errors(name: str) -> None:
    operator, attributes = OPERATORS[name]
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["n"]) for end in ("x", "y")]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], **attributes)], "one", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    points = numbers(name)
    assert share_of_error(name, session.run(None, {"x": points})[0], points, FUNCTIONS[name]) <= 0.75


@pytest.mark.parametrize("name", STEP_BY_STEP)
def test_evaluation_step_by_step_keeps_to_the_assumed_errors(name: str) -> None:
    points = numbers(name)
    with np.errstate(all="ignore"):
        for evaluate in STEP_BY_STEP[name]:
            assert share_of_error(name, evaluate(points), points, FUNCTIONS[name]) <= 1
