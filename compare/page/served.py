"""The page of a results folder, for `abscert show --serve`."""

from pathlib import Path

from compare.page.comparison_page import ComparisonContent, render_report
from compare.results.stored_run import CONFIG, RUNS


def results_page(folder: Path, data_dir: Path | None) -> str | None:
    """Return the page of a results folder as it is now; None of another folder.

    Raises:
        RecordError: if no run is done yet, or a file cannot be read.
    """
    if next((folder / RUNS).glob(f"[!.]*/{CONFIG}"), None) is None:
        return None
    return render_report(ComparisonContent.read(folder), folder / "index.html", data_dir, served=True)
