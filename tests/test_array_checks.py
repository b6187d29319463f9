"""The checks of arrays that run beneath all tests find a wrong shape, and slow nothing else down."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from array_checks import EVERY, FIRST, begin_test, now_and_then, says_a_shape
from beartype import beartype
from jaxtyping import Float64, TypeCheckError
from torch import Tensor

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.enclosure import Enclosure

Row = Float64[Tensor, "entries"]


def test_a_wrong_shape_in_a_dataclass_is_found() -> None:
    zeros, of_images = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    Enclosure(zeros, zeros, zeros, 0, of_images, of_images, 1.0)
    with pytest.raises(TypeCheckError, match="upper"):
        Enclosure(zeros, zeros[:, 1:], zeros, 0, of_images, of_images, 1.0)


def test_a_wrong_shape_in_an_argument_is_found() -> None:
    zeros, of_images = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    enclosure = Enclosure(zeros, zeros, zeros, 0, of_images, of_images, 1.0)
    with pytest.raises(TypeCheckError, match="images"):
        enclosure.take(torch.zeros(1, 1, dtype=torch.int64))


def test_functions_of_numbers_are_called_as_they_stand() -> None:
    assert not hasattr(arithmetic.gamma, "__wrapped__")


def test_a_function_is_checked_in_the_first_calls_of_each_test_and_in_some_of_the_others() -> None:
    def shape_of(row: Row) -> tuple[int, ...]:
        return tuple(row.shape)

    checked = now_and_then(shape_of, beartype)
    wrong = torch.zeros(2, 3, dtype=torch.float64)

    def is_seen() -> bool:
        try:
            return checked(wrong) != (2, 3)
        except TypeCheckError:
            return True

    for _ in range(2):
        begin_test()
        assert all(is_seen() for _ in range(FIRST))
        assert sum(is_seen() for _ in range(10 * EVERY)) == 10


def test_a_shape_is_seen_wherever_it_is_said() -> None:
    @dataclass
    class Pair:
        row: Row | None

    def of_rows(rows: dict[str, list[Row]]) -> int:
        return len(rows)

    def of_a_function(function: Callable[[Row], float]) -> None:
        """Take a function."""

    def made() -> tuple[int, Row]:
        raise NotImplementedError

    def later(row: "Float64[Tensor, 'entries']") -> None:
        """Take a row, which is said in a string."""

    def unsaid(count: int, name: str | None, tensor: Tensor) -> list[Tensor]:
        return [tensor] * count

    assert all(says_a_shape(each) for each in (Pair, of_rows, of_a_function, made, later))
    assert not says_a_shape(unsaid)
