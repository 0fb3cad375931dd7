"""The part of `maskrcnn export` that writes ONNX files to run."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskrcnn.cli.common import bold
from maskrcnn.data.open import open_dataset
from maskrcnn.errors import InputError
from maskrcnn.evaluation import EvaluationResult
from maskrcnn.evaluation import evaluate as measure
from maskrcnn.export.agreement import Agreement
from maskrcnn.export.check import check_folder, compare, compare_photos, images_to_check, require_same
from maskrcnn.export.exported import ExportedModel
from maskrcnn.export.graph import Dynamic, Sizes, choose_sizes
from maskrcnn.export.onnx import check_packages
from maskrcnn.export.onnx.options import Precision, check_opset
from maskrcnn.images import image_files
from maskrcnn.model import MaskRCNN
from maskrcnn.prediction import Predictor
from maskrcnn.progress import Reporter


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
        if self.paste and not self.preprocessing:
            raise InputError("--paste-masks needs --with-preprocessing: without it the graph does not know the photo.")


def to_onnx(model: MaskRCNN, job: OnnxJob, report: Reporter) -> dict[str, Any]:
    """Write the file and return what the command tells of it."""
    from maskrcnn.export.onnx.runtime import OnnxModel
    from maskrcnn.export.onnx.write import build, describe, write

    config = model.config
    sizes = choose_sizes(config, job.batch, job.size, job.dynamic)
    check_photos_fit(model, sizes)
    if job.preprocessing:
        from maskrcnn.export.onnx.with_photo import check_photo_sizes

        check_photo_sizes(config, sizes)
    data = job.evaluate and open_dataset(
        job.evaluate, job.split, masks=config.masks, keypoints=bool(config.keypoint_names)
    )
    told: dict[str, Any] = {"output": str(job.output), "opset": job.opset, "precision": job.precision}
    with report.bar("exporting", 4) as bar:
        bar.advance("tracing the network, which takes a minute")
        proto = build(model, sizes, job.opset)
        bar.advance("comparing with the network")
        if job.check:
            told["check"] = str(_checked(proto, model, job))
        bar.advance("reducing and writing")
        proto = _reduced(proto, OnnxModel(config, sizes, session=None), job, report)
        if job.preprocessing:
            from maskrcnn.export.onnx.with_photo import with_photo

            proto = with_photo(proto, config, sizes, job.paste)
        describe(proto, config, sizes, "photo" if job.preprocessing else "network", job.precision)
        write(proto, job.output, lambda path: told.update(_compared(path, model, job)))
        bar.advance()
    told["bytes"] = job.output.stat().st_size
    if data:
        told["evaluation"] = _evaluated(model, job, data, report)
    _tell(told, job, report)
    return told


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


def _checked(proto: Any, model: MaskRCNN, job: OnnxJob) -> Agreement:
    """Compare the graph, still float32 and without preprocessing, with the network; raise where they differ."""
    from maskrcnn.export.onnx.runtime import OnnxModel, load_onnx
    from maskrcnn.export.onnx.write import write

    with tempfile.TemporaryDirectory(prefix="maskrcnn-") as folder:
        path = Path(folder, "network.onnx")
        write(proto, path, lambda new: None)
        exported = load_onnx(path)
        assert isinstance(exported, OnnxModel)
        found = compare(model, exported, images_to_check(job.check_images, exported.sizes))
    require_same(found, str(job.output))
    return found


def _reduced(proto: Any, exported: ExportedModel, job: OnnxJob, report: Reporter) -> Any:
    """Return the graph in the precision that is wanted; `exported` knows what input it takes."""
    from maskrcnn.export.onnx import precision

    if job.precision == "fp16":
        return precision.to_half(proto)
    if job.precision == "int8":
        assert job.calibrate is not None
        photos = [str(path) for path in image_files([job.calibrate])[: precision.MOST_CALIBRATION_PHOTOS]]
        count = 1 if exported.sizes.any_batch else exported.sizes.batch
        with report.bar("calibrating", len(photos)) as bar:
            return precision.to_int8(proto, photos, lambda photo: exported.prepare([photo] * count), bar.advance)
    return proto


def _compared(path: Path, model: MaskRCNN, job: OnnxJob) -> dict[str, str]:
    """Return how the written file compares with the network where it is not the same by design."""
    from maskrcnn.export.onnx.runtime import load_onnx

    exported = load_onnx(path)
    if not job.check or (job.precision == "float32" and not job.preprocessing):
        return {}
    sizes = choose_sizes(model.config, job.batch, job.size, job.dynamic)
    return {"whole": str(compare_photos(model, exported, images_to_check(job.check_images, sizes)))}


def _evaluated(model: MaskRCNN, job: OnnxJob, data: Any, report: Reporter) -> dict[str, dict[str, float]]:
    """Return AP of the network, of the file, and what is lost, in percent, for boxes, masks and keypoints."""
    from maskrcnn.export.onnx.runtime import load_onnx

    networks: dict[str, MaskRCNN | Predictor] = {"network": model, "file": load_onnx(job.output)}
    found = {name: _ap(measure(network, data, 1, report)) for name, network in networks.items()}
    lost = {kind: found["network"][kind] - found["file"][kind] for kind in found["network"]}
    return {**found, "lost": lost}


def _ap(result: EvaluationResult) -> dict[str, float]:
    """Return AP in percent by what it is of."""
    return {kind: 100 * (figures["AP"] or 0.0) for kind, figures in result.parts().items()}


def _tell(told: dict[str, Any], job: OnnxJob, report: Reporter) -> None:
    """Say what was written."""
    report.say(f"Wrote {bold(job.output)}, {told['bytes'] / 1e6:.1f} MB.")
    if "check" in told:
        report.say(f"Compared with the network: {told['check']}.")
    if "whole" in told:
        what = " and ".join(
            ([job.precision] if job.precision != "float32" else []) + (["preprocessing"] if job.preprocessing else [])
        )
        report.say(f"With {what}: {told['whole']}.")
    if "evaluation" in told:
        network, file, lost = (told["evaluation"][key] for key in ("network", "file", "lost"))
        for kind in network:
            change = f"{abs(lost[kind]):.2f} {'lost' if lost[kind] >= 0 else 'won'}"
            report.say(f"{kind} AP: {network[kind]:.2f} of the network, {file[kind]:.2f} of the file, {change}.")
