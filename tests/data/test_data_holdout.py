"""The fixed-seed splits: disjoint, complete, ascending, the same each time."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abscert_plugin.data import Split
from abscert_plugin.data.holdout import hold_out, official_rows, unofficial_rows
from abscert_plugin.errors import DataError

COUNTS = st.integers(2, 3000)


@given(COUNTS)
def test_train_and_validation_are_disjoint_and_cover_the_training_file(count: int) -> None:
    train, validation = official_rows(Split.TRAIN, count), official_rows(Split.VALIDATION, count)
    assert sorted([*train, *validation]) == list(range(count))


@given(st.integers(3, 3000))
def test_unofficial_splits_are_disjoint_and_cover_the_file(count: int) -> None:
    parts = [unofficial_rows(split, count) for split in Split]
    assert sorted(np.concatenate(parts)) == list(range(count))


@given(st.integers(3, 3000), st.sampled_from([official_rows, unofficial_rows]), st.sampled_from(list(Split)))
def test_rows_are_ascending_and_the_same_each_time(count: int, rows_of: Any, split: Split) -> None:
    rows = rows_of(split, count)
    assert (np.diff(rows) > 0).all()
    np.random.seed(count)  # noqa: NPY002 - the splits must not read global state
    assert (rows == rows_of(split, count)).all()


@pytest.mark.parametrize(("count", "validation"), [(2, 1), (99, 9), (1437, 143), (50_000, 5000), (60_000, 5000)])
def test_validation_is_a_tenth_and_at_most_5000(count: int, validation: int) -> None:
    assert len(official_rows(Split.VALIDATION, count)) == validation


def test_the_test_file_is_whole_and_in_order() -> None:
    assert official_rows(Split.TEST, 7).tolist() == list(range(7))


@pytest.mark.parametrize(("count", "held"), [(1, 1), (0, 1), (5, 0), (5, 5)])
def test_a_split_with_an_empty_part_is_refused(count: int, held: int) -> None:
    with pytest.raises(DataError, match="at least 2 images"):
        hold_out(count, held)
