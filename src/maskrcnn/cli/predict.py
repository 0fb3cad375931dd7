"""`maskrcnn predict`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from maskrcnn.cli.common import (
    AsJson,
    Device,
    Fast,
    FastPrecision,
    Overrides,
    Quiet,
    Trust,
    bold,
    load_predictor,
    output_folder,
    reporter,
    save_picture,
)
from maskrcnn.cli.networks import WEIGHTS, are_weights
from maskrcnn.data.coco_json import read_json
from maskrcnn.drawing import overlay
from maskrcnn.errors import DatasetError, ImageFileError, InputError, counted
from maskrcnn.evaluation import coco_results, counting_pixels
from maskrcnn.export.exported import DoesNotFitError
from maskrcnn.files import write_text
from maskrcnn.images import image_files, load_image
from maskrcnn.model import MaskRCNN
from maskrcnn.prediction import Predictor
from maskrcnn.progress import Reporter
from maskrcnn.structures import Detections
from maskrcnn.weights.releases import DEFAULT

RESULTS = "detections.json"


def predict(
    inputs: Annotated[
        list[str], typer.Argument(metavar="[WEIGHTS] IMAGES", help="Images, folders or globs; weights may stand first.")
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            help=f"A weights file, or a name of `pretrained`; {DEFAULT} by default.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for pictures and results.")] = Path(
        "predictions"
    ),
    threshold: Annotated[float, typer.Option(help="Least score of a detection.", min=0.0, max=1.0)] = 0.5,
    pictures: Annotated[bool, typer.Option(help="Write a picture per image.")] = True,
    labels: Annotated[bool, typer.Option(help="Write class and score on every object.")] = True,
    color_by: Annotated[
        str, typer.Option(help="instance: every object its own colour; class: every class.")
    ] = "instance",
    annotations: Annotated[
        Path | None,
        typer.Option(help="COCO JSON whose image and category ids the results shall carry.", show_default=False),
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Look into folders of folders.")] = False,
    fast: Fast = False,
    precision: FastPrecision = None,
    overrides: Overrides = None,
    device: Device = None,
    trust: Trust = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> int:
    """Find objects in images.

    \b
    Examples:
      maskrcnn predict photo.jpg
      maskrcnn predict runs/photos/best.safetensors holiday/*.jpg -o found
      maskrcnn predict --weights detectron2/mask_rcnn_R_50_FPN_3x holiday/
      maskrcnn predict best.safetensors holiday/ --fast
      maskrcnn predict model.onnx holiday/

    Writes a picture per image, and detections.json in COCO's results format (boxes x, y, width, height
    in pixels of the photo; masks as RLE; image_id is the file's path unless --annotations gives ids).
    A file that cannot be read, or does not fit in an exported network, is named and left out; the exit
    status is 1 then. For evaluation tools take --threshold 0, since a detection of any score counts there.
    """
    if color_by not in ("instance", "class"):
        raise InputError(f"--color-by must be instance or class; got {color_by!r}.")
    if weights is None and are_weights(inputs[0]):
        weights, *inputs = inputs
        if not inputs:
            raise InputError(f"Name images after the weights: maskrcnn predict {weights} photo.jpg")
    misplaced = next((name for name in inputs if Path(name).suffix.lower() in WEIGHTS), None)
    if misplaced is not None:
        raise InputError(f"{misplaced} is no image. Weights stand before the images, or after --weights.")
    files = image_files(inputs, recursive=recursive)
    if pictures:
        _keep_photos(files, output)
    model = load_predictor(weights or DEFAULT, device, overrides, quiet, trust, fast, precision)
    ids, category_ids = _ids(annotations, model.config.class_names)
    image_ids = [_image_id(path, ids, annotations) for path in files]
    output_folder(output)
    report = reporter(quiet)
    results: list[dict[str, Any]] = []
    taken: set[str] = set()
    broken, finished = 0, False
    try:
        for path, image_id, image, found in _found_in(model, files, image_ids, threshold, report):
            if image is None or found is None:
                broken += 1
                continue
            counted_from_0 = counting_pixels(found, model.config.keypoint.pixel_offset)
            results += coco_results(counted_from_0, image_id, category_ids)
            if pictures:
                save_picture(overlay(image, found, color_by=color_by, labels=labels), output, path, taken)  # type: ignore[arg-type]
        finished = True
    finally:  # also of a run that is stopped, unless it has nothing to show for it
        if results or finished:
            write_text(output / RESULTS, json.dumps(results) + "\n")
    summary = {
        "images": len(files) - broken,
        "unreadable": broken,
        "detections": len(results),
        "output": str(output),
    }
    if as_json:
        typer.echo(json.dumps({**summary, "results": results}))
    report.say(
        f"{counted(len(results), 'detection')} in {counted(len(files) - broken, 'image')}: {bold(output)}"
        + (f" [yellow]({broken} left out)[/]" if broken else "")
    )
    return 1 if broken else 0


def _found_in(
    model: MaskRCNN | Predictor, files: Sequence[Path], image_ids: Sequence[Any], threshold: float, report: Reporter
) -> Iterator[tuple[Path, Any, Any, Detections | None]]:
    """Yield every file with its id, its pixels and what is found in them; None for both where it is left out."""
    with report.bar("predicting", len(files)) as bar:
        for path, image_id in zip(files, image_ids, strict=True):
            try:
                image = load_image(path)
                [found] = model.predict(image, threshold, masks="rle")
            except (ImageFileError, DoesNotFitError) as e:
                report.warn(f"{str(e).replace('images[0]', str(path), 1)} It is left out.")
                yield path, image_id, None, None
                bar.advance()
                continue
            yield path, image_id, image, found
            bar.advance(f"{path.name}: {counted(len(found), 'object')}")


def _keep_photos(files: Sequence[Path], output: Path) -> None:
    """Raise `InputError` where a picture could take the place of a photo."""
    for path in files:
        if path.parent.resolve() == output.resolve():
            raise InputError(
                f"--output {output} is the folder of {path.name}, which a picture of the same name could overwrite. "
                "Choose another folder."
            )


def _ids(annotations: Path | None, class_names: tuple[str, ...]) -> tuple[dict[str, Any], list[int] | None]:
    """Return image ids by file name, and the category id of each class."""
    if annotations is None:
        return {}, None
    data = read_json(annotations)
    try:
        images = {str(image["file_name"]).replace("\\", "/"): image["id"] for image in data["images"]}
        categories = {str(c["name"]): int(c["id"]) for c in data["categories"]}
    except (KeyError, TypeError, ValueError):
        raise DatasetError(f"{annotations} is not COCO JSON with images and categories.") from None
    unknown = [name for name in class_names if name not in categories]
    if unknown:
        raise DatasetError(f"{annotations} has no category called {', '.join(unknown)}, which the weights know.")
    return images, [categories[name] for name in class_names]


def _image_id(path: Path, ids: dict[str, Any], annotations: Path | None) -> Any:
    """Return the id of the file that ends like the path, the longest such name first."""
    if annotations is None:
        return str(path)
    parts = path.absolute().parts
    for first in range(len(parts)):
        name = "/".join(parts[first:])
        if name in ids:
            return ids[name]
    raise DatasetError(f"{annotations} has no image called {path.name}.")
