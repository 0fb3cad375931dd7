"""The part of `maskrcnn export` that writes ONNX files to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskrcnn.cli.common import bold
from maskrcnn.errors import InputError
from maskrcnn.export.check import check_folder, compare, images_to_check, require_same
from maskrcnn.export.graph import Dynamic, Sizes, choose_sizes
from maskrcnn.export.onnx import check_packages
from maskrcnn.export.onnx.options import Precision, check_opset
from maskrcnn.model import MaskRCNN
from maskrcnn.progress import Bar, Reporter


@dataclass(frozen=True)
class OnnxJob:
    """What is asked of an ONNX file; the names are those of the command's options."""

    output: Path
    batch: int
    size: tuple[int, int] | None
    dynamic: Dynamic
    opset: int
    preprocessing: bool
    paste: bool
    precision: Precision
    calibrate: Path | None
    check: bool
    check_images: Path | None
    evaluate: str | None
    split: str

    def validate(self) -> None:
        """Refuse what cannot be, before any work is done."""
        check_packages()
        check_opset(self.opset)
        if (self.precision == "int8") != (self.calibrate is not None):
            raise InputError("--precision int8 and --calibrate FOLDER belong together: its photos tell the ranges.")
        check_folder(self.calibrate, "--calibrate")


def to_onnx(model: MaskRCNN, job: OnnxJob, report: Reporter) -> dict[str, Any]:
    """Write the file and return what the command tells of it."""
    from maskrcnn.export.onnx.write import build, write

    sizes = choose_sizes(model.config, job.batch, job.size, job.dynamic)
    check_photos_fit(model, sizes)
    summary: dict[str, Any] = {"output": str(job.output), "opset": job.opset, "precision": job.precision}
    with report.bar("exporting", 3) as bar:
        bar.advance("tracing the network; this takes a while")
        proto = build(model, sizes, job.opset)
        bar.advance("writing and comparing")
        write(proto, job.output, lambda path: _check(path, model, job, bar, summary))
    summary["bytes"] = job.output.stat().st_size
    told = f" {summary['check']}" if "check" in summary else ""
    report.say(f"Wrote {bold(job.output)}, {summary['bytes'] / 1e6:.1f} MB.{told}")
    return summary


def check_photos_fit(model: MaskRCNN, sizes: Sizes) -> None:
    """Raise `InputError` where no photo, once resized as the configuration says, fits the input of a file."""
    image = model.config.image
    shortest = min(image.min_size, image.max_size)
    if not sizes.any_size and image.resize != "skimage" and shortest > min(sizes.height, sizes.width):
        raise InputError(
            f"No photo fits in {sizes.height} × {sizes.width}: image.min_size makes the shorter side of each "
            f"{shortest}. Add --set image.min_size={min(sizes.height, sizes.width)} --set "
            f"image.max_size={max(sizes.height, sizes.width)}, or export another size."
        )


def _check(path: Path, model: MaskRCNN, job: OnnxJob, bar: Bar, summary: dict[str, Any]) -> None:
    """Compare the file with the network."""
    from maskrcnn.export.onnx.runtime import load_onnx

    exported = load_onnx(path)
    if job.check:
        found = compare(model, exported, images_to_check(job.check_images, exported))
        require_same(found, str(job.output))
        summary["check"] = str(found)
    bar.advance()
