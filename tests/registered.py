"""Packages that register entries, as pip leaves them on disk: a module and its entry points."""

from pathlib import Path


def write_package(folder: Path, name: str, code: str, entries: dict[str, dict[str, str]]) -> Path:
    """Write a package of one module that registers entries; it counts where `folder` is on `sys.path`.

    Args:
        folder: where installed packages lie.
        name: the module's name, and the package's.
        code: what the module holds.
        entries: by group, each entry's name and the object in the module.
    """
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{name}.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        line
        for group, names in entries.items()
        for line in (f"[{group}]", *(f"{key} = {name}:{value}" for key, value in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder
