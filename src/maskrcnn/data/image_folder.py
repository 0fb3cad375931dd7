"""Where the images of an annotation file are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from maskrcnn.errors import DatasetError

PROBES = 20
"""How many images are looked for in a folder that may be the right one."""


def find_images_folder(annotation_file: Path, file_names: Sequence[str]) -> Path:
    """Return the folder near `annotation_file` that holds the most of `file_names`.

    Raises:
        DatasetError: none holds any; the message lists where it looked.
    """
    parent, stem = annotation_file.parent, annotation_file.stem
    # COCO's own layout is annotations/instances_val2017.json beside val2017/.
    short = stem.removeprefix("instances_")
    names = dict.fromkeys(
        ["images", "../images", ".", stem, f"../{stem}", short, f"../{short}", f"../images/{short}", ".."]
    )
    folders = [Path(os.path.normpath(parent / name)) for name in names]
    probes = file_names[:PROBES]
    hits = [sum(os.path.isfile(image_path(folder, name)) for name in probes) for folder in folders]
    if max(hits) == 0:
        looked = "\n".join(f"  {folder}{'' if folder.is_dir() else ' (no such folder)'}" for folder in folders)
        raise DatasetError(
            f"{annotation_file}: its images, such as {file_names[0]!r}, are not found; pass images_folder. "
            f"Looked in:\n{looked}"
        )
    return folders[hits.index(max(hits))]


def image_path(folder: Path, file_name: str) -> Path:
    """Return the path of an image; takes the backslashes of a file written on Windows for slashes."""
    return folder / file_name.replace("\\", "/")


def check_files(annotation_file: Path, folder: Path, paths: Sequence[Path]) -> None:
    """Raise `DatasetError` unless all image files are there; names the first few that are not.

    Lists every folder once instead of asking for each file, which on network drives takes minutes.
    """
    if not folder.is_dir():
        raise DatasetError(f"{annotation_file}: the images folder {folder} does not exist.")
    listings: dict[Path, set[str]] = {}
    missing: list[Path] = []
    for path in paths:
        if path.parent not in listings:
            listings[path.parent] = _names_in(path.parent)
        if path.name not in listings[path.parent] and not os.path.isfile(path):
            missing.append(path)
    if not missing:
        return
    first = ", ".join(str(path) for path in missing[:3]) + (", …" if len(missing) > 3 else "")
    raise DatasetError(
        f"{annotation_file}: {len(missing)} of {len(paths)} image files missing: {first}."
        f"{_near_miss(missing[0], listings)}"
    )


def _names_in(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (OSError, ValueError):
        return set()


def _near_miss(path: Path, listings: dict[Path, set[str]]) -> str:
    """Return a hint at a file of the same name in another case or with another ending."""
    for name in sorted(listings[path.parent]):
        if name.lower() == path.name.lower():
            return f" There is {name!r}: upper and lower case differ."
        if Path(name).stem == path.stem:
            return f" There is {name!r}: the ending differs."
    return ""
