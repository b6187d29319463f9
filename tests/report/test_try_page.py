"""The page on which a guard is tried out: what it holds, and that files can smuggle nothing into it."""

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from html_page import Element, parse_page
from report_rows import picture_data

from abscert_plugin.claim import Radius, RadiusScale
from abscert_plugin.data import DataSet, Split, load_data
from abscert_plugin.errors import DataError, RecordError
from abscert_plugin.grid import Grid
from abscert_plugin.report.try_page import TryContent, render_try_page

DIGITS = load_data("digits", Split.TEST)


def rendered(folder: Path, data: DataSet = DIGITS, grid: Grid | None = None, radii: tuple[str, ...] = ("0.1",)) -> str:
    guard = folder / "guard.onnx"
    guard.write_bytes(b"guard")
    return render_try_page(TryContent(guard, [Radius.parse(text) for text in radii], grid or Grid(5), data))


def facts_of(page: Element) -> dict[str, object]:
    facts = json.loads(page.by_id("facts").text)
    assert isinstance(facts, dict)
    return facts


def test_it_holds_the_test_images_the_cells_and_the_file_it_is_of(tmp_path: Path) -> None:
    facts = facts_of(parse_page(rendered(tmp_path, radii=("0.02", "1/3", "2/3"))))
    assert facts["sha256"] == hashlib.sha256(b"guard").hexdigest()
    assert facts["radii"] == ["0.02", "1/3", "2/3"]
    assert facts["edges"] == Grid(5).edges.tolist()
    batch = DIGITS.take(np.arange(len(DIGITS)))
    images = np.frombuffer(base64.b64decode(str(facts["images"])), dtype=np.uint8).reshape(batch.images.shape)
    assert np.array_equal(images, batch.images)
    assert facts["labels"] == batch.labels.tolist()
    assert facts["index"] == batch.index.tolist()


def test_radii_of_the_training_scale_are_told_in_pixels(tmp_path: Path) -> None:
    guard = tmp_path / "guard.onnx"
    guard.write_bytes(b"guard")
    page = render_try_page(TryContent(guard, [Radius.parse("0.2", RadiusScale.TRAINING)], Grid(5), DIGITS))
    assert facts_of(parse_page(page))["radii"] == ["0.1"]


def test_names_of_files_and_classes_are_escaped(tmp_path: Path) -> None:
    classes = ("</script><script>alert(1)</script>", *DIGITS.classes[1:])
    text = rendered(tmp_path, replace(DIGITS, name="<b>digits", classes=classes))
    assert "<b>digits" not in text
    assert "alert(1)<" not in text
    assert facts_of(parse_page(text))["classes"] == list(classes)


def test_every_control_has_a_name(tmp_path: Path) -> None:
    page = parse_page(rendered(tmp_path))
    labelled = {label.attributes.get("for") for label in page.all("label")}
    for control in page.all("input"):
        inside = any(control in label.walk() for label in page.all("label"))
        assert inside or control.attributes["id"] in labelled
    names = {element.attributes["id"] for element in page.walk() if "id" in element.attributes}
    for element in page.walk():
        for attribute in ("aria-labelledby", "aria-describedby", "for"):
            assert set(element.attributes.get(attribute, "").split()) <= names
    assert all(button.text for button in page.all("button"))
    assert "is a test image: no error rate of the report speaks of it" in page.text


def test_images_in_colour_and_a_missing_guard_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one channel"):
        rendered(tmp_path, picture_data((3, 4, 4), 5))
    with pytest.raises(RecordError, match="cannot read"):
        render_try_page(TryContent(tmp_path / "none.onnx", [Radius.parse("0.1")], Grid(5), DIGITS))
