"""The paper's printed figures: as many as it prints, and as consistent as its own arithmetic allows."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import cast

import pytest

from abscert_plugin.claim import Radius, RadiusScale
from abscert_plugin.errors import ConfigError
from compare.tables.published import FILE, GAINS, PublishedFigure, Quantity, Unit, find, parse_figures, published

Figures = tuple[PublishedFigure, ...]
StoredRun = tuple[int, str, str, str | None]

# counted by hand: cells, and dashes among them
PRINTED = {
    1: (3 * 7 * (4 + 5), 3 * 2 * 5),  # networks x columns x radii (MNIST, CIFAR-10); LBP and its Impr. on CIFAR-10
    2: (3 * 4 * (4 + 5), 3 * 5),  # LBP on CIFAR-10
    3: (2 * 3 * 17, 3 * 5),  # data sets x networks x columns; two times and three speed-ups of LBP on CIFAR-10
    4: (7 * (4 + 4), 0),
    5: (4 * 3 + 4, 0),  # errors, and one time for each network
}
HALF = Decimal("0.005")  # half a unit of the last printed place
SOURCES = {
    Quantity.IMPROVEMENT: (Quantity.VERIFIED_ERROR,),
    Quantity.TRAINING_SPEED_UP: (Quantity.TRAINING_SECONDS,),
    Quantity.VERIFICATION_SPEED_UP: (Quantity.VERIFICATION_SECONDS,),
    Quantity.TOTAL_SPEED_UP: (Quantity.TRAINING_SECONDS, Quantity.VERIFICATION_SECONDS),
}
NAMES = {
    "MNIST": "mnist",
    "CIFAR-10": "cifar10",
    "DM-small": "dm-small",
    "DM-medium": "dm-medium",
    "DM-large": "dm-large",
    "DM-s": "dm-small",
    "DM-m": "dm-medium",
    "FC-3": "fc-3",
    "FC-5": "fc-5",
    "AlexNet": "alexnet",
    "VGG11": "vgg11",
    "Inception V1": "inception-v1",
    "ResNet18": "resnet18",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "AC": "abstrain",
    "LLM": "llm",
    "LBP": "lbp",
    "AIBP": "adv-ibp",
}
# The paper's own slips: what its printed times do not give, to the last printed place, and what they give. Each still
# follows from times that round to the printed ones.
SLIPS: dict[StoredRun, tuple[str, str]] = {
    (3, "MNIST, DM-small", "Training Time, SpeedUp", "llm"): ("6.14", "6.15"),
    (3, "MNIST, DM-small", "Training Time, SpeedUp", "lbp"): ("2.99", "3.00"),
    (3, "MNIST, DM-medium", "Training Time, SpeedUp", "llm"): ("15.18", "15.16"),
    (3, "MNIST, DM-medium", "Training Time, SpeedUp", "lbp"): ("5.18", "5.17"),
    (3, "CIFAR-10, DM-small", "Training Time, SpeedUp", "llm"): ("4.54", "4.53"),
    (3, "CIFAR-10, DM-medium", "Verification Time, SpeedUp", "adv-ibp"): ("6.04", "6.05"),
}


def place(figure: PublishedFigure) -> StoredRun:
    return figure.table, figure.row, figure.column, figure.against


def beside(figures: Iterable[PublishedFigure], figure: PublishedFigure, method: str, quantity: Quantity) -> Decimal:
    """Return what the same row of the same table prints of a method."""
    row = (figure.table, figure.data, figure.network, figure.printed_radius, method, quantity)
    (found,) = (
        other.value
        for other in figures
        if (other.table, other.data, other.network, other.printed_radius, other.method, other.quantity) == row
    )
    assert found is not None
    return found


def gain(quantity: Quantity, ours: Decimal, theirs: Decimal) -> Decimal:
    return 100 * (theirs - ours) / theirs if quantity is Quantity.IMPROVEMENT else theirs / ours


def gains(figures: Figures) -> list[tuple[PublishedFigure, Decimal, Decimal, Decimal]]:
    """Return each printed gain with ours and theirs as printed, and by how much their sums may be rounded."""
    return [
        (
            figure,
            sum((beside(figures, figure, figure.method, source) for source in SOURCES[figure.quantity]), Decimal(0)),
            sum((beside(figures, figure, figure.against, source) for source in SOURCES[figure.quantity]), Decimal(0)),
            HALF * len(SOURCES[figure.quantity]),
        )
        for figure in figures
        if figure.against is not None and figure.value is not None
    ]


def impossible_gains(figures: Figures) -> set[StoredRun]:
    """Return the gains that no numbers which round to the printed ones can give."""
    return {
        place(figure)
        for figure, ours, theirs, half in gains(figures)
        if not gain(figure.quantity, ours + half, theirs - half) - HALF
        <= (figure.value or 0)
        <= gain(figure.quantity, ours - half, theirs + half) + HALF
    }


def gains_of_other_digits(figures: Figures) -> dict[StoredRun, tuple[str, str]]:
    """Return the gains that the printed numbers, taken as exact, do not give, and what they give."""
    return {
        place(figure): (str(figure.value), str(round(gain(figure.quantity, ours, theirs), 2)))
        for figure, ours, theirs, _ in gains(figures)
        if abs(gain(figure.quantity, ours, theirs) - (figure.value or 0)) > HALF
    }


def pairs_of_error_and_accuracy(figures: Figures) -> list[tuple[PublishedFigure, Decimal, Decimal]]:
    """Return each accuracy of Table 2 with the verified error of Table 1 for the same training."""
    errors = {
        (figure.data, figure.network, figure.printed_radius, figure.method): figure.value
        for figure in figures
        if figure.table == 1 and figure.quantity is Quantity.VERIFIED_ERROR
    }
    pairs = []
    for figure in figures:
        if figure.table == 2:
            error = errors[figure.data, figure.network, figure.printed_radius, figure.method]
            assert (error is None) == (figure.value is None)
            if error is not None and figure.value is not None:
                pairs.append((figure, error, figure.value))
    return pairs


# --- what is there ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", PRINTED)
def test_a_table_has_as_many_cells_as_the_paper_prints(table: int) -> None:
    values = [figure.value for figure in published() if figure.table == table]
    assert (len(values), values.count(None)) == PRINTED[table]


def test_every_table_is_there() -> None:
    assert {figure.table for figure in published()} == set(PRINTED)


def test_every_figure_is_a_finite_number_with_printed_decimals_or_missing() -> None:
    for figure in published():
        if figure.value is not None:
            assert figure.value.is_finite()
            assert figure.value > 0
            one_decimal = figure.table == 5 and figure.quantity is Quantity.TRAINING_SECONDS
            assert figure.value.as_tuple().exponent == (-1 if one_decimal else -2)


def test_only_lbp_on_cifar10_is_missing() -> None:
    for figure in published():
        lbp_on_cifar10 = figure.data == "cifar10" and "lbp" in (figure.method, figure.against)
        assert (figure.value is None) == lbp_on_cifar10


def test_no_two_figures_of_a_table_have_the_same_key() -> None:
    keys = Counter(
        (
            figure.table,
            figure.data,
            figure.network,
            figure.activation,
            figure.method,
            figure.against,
            figure.printed_radius,
            figure.quantity,
        )
        for figure in published()
    )
    assert [key for key, count in keys.items() if count > 1] == []


def test_every_name_is_the_projects_name_of_what_is_printed() -> None:
    for figure in published():
        headings = f"{figure.row}, {figure.column}".split(", ")
        named = {NAMES[heading] for heading in headings if heading in NAMES}
        own = {figure.data, figure.network, figure.activation, figure.method, figure.against}
        assert named <= own, figure
        assert figure.network in named, figure


def test_an_activation_that_is_not_printed_is_relu_or_that_of_lbp() -> None:
    for figure in published():
        if figure.table != 4:
            assert figure.activation == ("param-ramp" if figure.method == "lbp" else "relu")


def test_every_quantity_has_one_unit() -> None:
    units = dict.fromkeys(Quantity, Unit.PERCENT) | dict.fromkeys(GAINS - {Quantity.IMPROVEMENT}, Unit.TIMES)
    units |= {Quantity.TRAINING_SECONDS: Unit.SECONDS_PER_EPOCH, Quantity.VERIFICATION_SECONDS: Unit.SECONDS}
    assert {(figure.quantity, figure.unit) for figure in published()} == set(units.items())


# --- radii and look-up -----------------------------------------------------------------------------------------------


def test_a_radius_is_on_the_scale_of_its_method() -> None:
    for figure in published():
        for radius, method in ((figure.radius, figure.method), (figure.against_radius, figure.against)):
            if radius is not None:
                assert figure.printed_radius is not None
                assert radius.given == Fraction(figure.printed_radius)
                assert radius.scale is (RadiusScale.TRAINING if method == "abstrain" else RadiusScale.PIXEL)


def test_only_times_and_speed_ups_have_no_radius() -> None:
    rates = {Quantity.VERIFIED_ERROR, Quantity.ACCURACY, Quantity.IMPROVEMENT}
    for figure in published():
        assert (figure.radius is not None) == (figure.quantity in rates)
        assert (figure.against_radius is not None) == (figure.quantity is Quantity.IMPROVEMENT)


def test_a_radius_finds_the_same_images_for_every_method() -> None:
    found = find(
        data="mnist",
        network="dm-large",
        quantity=Quantity.VERIFIED_ERROR,
        radius=Radius.parse("0.2"),
        activation="relu",
    )
    assert {(figure.method, figure.printed_radius, str(figure.value)) for figure in found} == {
        ("abstrain", "0.4", "0.77"),
        ("llm", "0.2", "4.38"),
        ("adv-ibp", "0.2", "5.89"),
    }
    on_training_scale = Radius.parse("0.4", RadiusScale.TRAINING)
    assert find(radius=on_training_scale) == find(radius=Radius.parse("0.2"))


def test_finding_nothing_in_particular_finds_everything() -> None:
    assert find() == published()
    assert find(network="no such network") == ()


def test_every_figure_is_found_by_its_own_names() -> None:
    for figure in published():
        found = find(
            data=figure.data,
            network=figure.network,
            activation=figure.activation,
            method=figure.method,
            radius=figure.radius,
            quantity=figure.quantity,
        )
        assert figure in found


# --- the paper's own arithmetic --------------------------------------------------------------------------------------


def test_verified_error_and_accuracy_of_abstraction_add_up_to_a_hundred() -> None:
    pairs = [pair for pair in pairs_of_error_and_accuracy(published()) if pair[0].method == "abstrain"]
    assert len(pairs) == 27
    assert [place(figure) for figure, error, accuracy in pairs if error + accuracy != 100] == []


def test_no_method_misclassifies_more_images_than_it_fails_to_verify() -> None:
    pairs = pairs_of_error_and_accuracy(published())
    assert [place(figure) for figure, error, accuracy in pairs if 100 - accuracy > error] == []


def test_a_printed_gain_is_what_the_printed_numbers_allow() -> None:
    assert len(gains(published())) == 27 * 2 + 12 + 6 * 6 + 3 * 3
    assert impossible_gains(published()) == set()


def test_a_printed_gain_has_the_digits_that_the_printed_numbers_give_but_for_the_papers_slips() -> None:
    assert gains_of_other_digits(published()) == SLIPS


@pytest.mark.parametrize("method", ["abstrain", "llm", "lbp", "adv-ibp"])
def test_a_wrong_number_in_table_1_contradicts_a_gain(method: str) -> None:
    """The checks above would see a digit that was copied wrongly."""
    figures = published()
    (wrong,) = (
        figure
        for figure in figures
        if figure.table == 1
        and figure.row == "MNIST, 0.3"
        and figure.network == "dm-medium"
        and figure.method == method
        and figure.against is None
    )
    assert wrong.value is not None
    changed = tuple(
        replace(figure, value=wrong.value + Decimal("0.1")) if figure is wrong else figure for figure in figures
    )
    assert impossible_gains(changed)


def test_gains_reach_what_the_papers_text_says_and_no_more() -> None:
    """Section 5.2 names these maxima apart from the tables."""

    def greatest(quantity: Quantity, against: str, data: str) -> str:
        found = find(data=data, quantity=quantity)
        return str(max(figure.value for figure in found if figure.against == against and figure.value is not None))

    assert greatest(Quantity.IMPROVEMENT, "llm", "mnist") == "95.12"
    assert greatest(Quantity.IMPROVEMENT, "lbp", "mnist") == "92.65"
    assert greatest(Quantity.IMPROVEMENT, "adv-ibp", "mnist") == "95.64"
    assert greatest(Quantity.IMPROVEMENT, "llm", "cifar10") == "81.90"
    assert greatest(Quantity.TRAINING_SPEED_UP, "llm", "mnist") == "26.43"
    assert greatest(Quantity.VERIFICATION_SPEED_UP, "lbp", "mnist") == "602.50"


def test_errors_without_relu_stay_below_what_the_papers_text_says() -> None:
    for data, limit in (("mnist", 14), ("cifar10", 66)):
        values = [figure.value for figure in find(data=data) if figure.table == 4]
        assert limit - 1 < max(value for value in values if value is not None) < limit


def test_a_greater_radius_never_has_a_smaller_error() -> None:
    errors = [figure for figure in find(quantity=Quantity.VERIFIED_ERROR) if figure.value is not None]
    for one in errors:
        for other in errors:
            same = [(f.table, f.data, f.network, f.activation, f.method) for f in (one, other)]
            if same[0] == same[1] and cast(Radius, one.radius).given < cast(Radius, other.radius).given:
                assert cast(Decimal, one.value) <= cast(Decimal, other.value), (place(one), place(other))


# --- the file --------------------------------------------------------------------------------------------------------

TEXT = resources.files("compare.tables").joinpath(FILE).read_text(encoding="utf-8")


def test_the_shipped_file_is_what_is_published() -> None:
    assert parse_figures(TEXT) == published()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[scales]", "[scales", "broken"),
        ("[scales]", "[scale]", "scale"),
        ("table = 1", "table = 6", "<= 5"),
        ("table = 1", "tables = 1", "tables"),
        ("cells = [0.89, 3.02,", "cells = [3.02,", "row MNIST, 0.1: expected 7 cells, got 6"),
        ("cells = [0.89,", "cells = [1,", "with its decimals"),
        ("cells = [0.89,", "cells = [nan,", "NaN"),
        ("cells = [0.89,", "cells = [-0.89,", "-0.89"),
        ("cells = [0.89,", 'cells = ["?",', "'\\?'"),
        ('radius = "0.1"', 'radius = "1/0"', "expected a radius"),
        ('method = "llm"', 'method = "lmm"', "expected a method: one of abstrain, llm, lbp, adv-ibp; got 'lmm'"),
        ('against = "llm", ', "", "against"),
        ('quantity = "accuracy"', 'quantity = "precision"', "precision"),
        ('unit = "%"', 'unit = "percent"', "percent"),
        ('network = "dm-small"\n', "", "expected a network"),
        ("cells = [0.89,", "cells = [1e99999999999999999999,", "broken"),
        ("cells = [0.89,", f"cells = [{'[' * 5000}", "broken"),
    ],
)
def test_a_broken_file_is_one_line_of_error(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(ConfigError, match=message) as caught:
        parse_figures(TEXT.replace(old, new, 1))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"compare/tables/{FILE} is broken: ")


def test_a_missing_file_is_one_line_of_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    published.cache_clear()
    with pytest.raises(ConfigError, match="install the package again"):
        published()


def test_the_figures_are_read_without_torch() -> None:
    code = "import sys\nfrom compare.tables.published import published\npublished()\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
