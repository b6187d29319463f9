"""`abscert data`."""

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from abscert_plugin.cli import completion, manual, options
from abscert_plugin.cli.console import OUT, print_json
from abscert_plugin.data import DATA_SETS, Split, data_entry, load_data
from abscert_plugin.errors import AbscertError

_EXAMPLE: Final = "abscert data mnist"


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("data", epilog=_EXAMPLE, rich_help_panel=manual.TRAIN)(data)


def data(
    name: Annotated[
        str | None,
        typer.Argument(help="A data set to look at closely.  [default: list all]", autocompletion=completion.data),
    ] = None,
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    json: options.Json = False,
) -> None:
    """List the data sets and whether their files are there, or describe one."""
    if name is None:
        rows = [_found(key, data_dir) for key in DATA_SETS]
        if json:
            print_json({"data_sets": rows})
            return
        OUT.print(_list(rows))
        return
    splits = [load_data(name, split, data_dir, image_size) for split in Split]
    described = [
        {
            "split": part.split.value,
            "images": len(part),
            "shape": list(part.shape),
            "classes": list(part.classes),
            "levels": part.levels,
            "sha256": part.sha256,
        }
        for part in splits
    ]
    if json:
        print_json({"name": name, "splits": described})
        return
    table = Table(title=f"{name}: {data_entry(name).description}", title_justify="left")
    for column in ("split", "images", "C x H x W", "classes", "sha256"):
        table.add_column(column, justify="right" if column == "images" else "left")
    for part in splits:
        size = " x ".join(map(str, part.shape))
        table.add_row(part.split.value, f"{len(part):,}", size, str(len(part.classes)), part.sha256[:16])
    OUT.print(table)


def _found(name: str, data_dir: Path | None) -> dict[str, str]:
    try:
        count = len(load_data(name, Split.TEST, data_dir))
    except AbscertError:
        note = f"`abscert data {name}` says what to put where"
        return {"name": name, "description": DATA_SETS[name].description, "state": "missing", "note": note}
    return {
        "name": name,
        "description": DATA_SETS[name].description,
        "state": "found",
        "note": f"{count:,} test images",
    }


def _list(rows: list[dict[str, str]]) -> Table:
    table = Table(title="data sets", title_justify="left")
    for column in ("name", "what it is", "", ""):
        table.add_column(column, overflow="fold")
    for row in rows:
        style = "green" if row["state"] == "found" else "yellow"
        table.add_row(row["name"], row["description"], Text(row["state"], style), row["note"])
    return table
