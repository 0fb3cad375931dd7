"""`maskrcnn export`: what may be asked, and which format answers it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, get_args

import torch
import typer
from rich.markup import escape

from maskrcnn.cli.common import AsJson, Overrides, Quiet, bold, load_on, output_file, parse_overrides, reporter
from maskrcnn.cli.export_onnx import OnnxJob, to_onnx
from maskrcnn.cli.export_pt2 import Pt2Job, to_pt2
from maskrcnn.cli.networks import Preset, Random, photo_size, random_config
from maskrcnn.config import Config
from maskrcnn.errors import InputError, did_you_mean
from maskrcnn.export import check_installed, export_for_netron
from maskrcnn.export.check import check_folder
from maskrcnn.export.graph import Dynamic
from maskrcnn.export.onnx.options import DEFAULT_OPSET, Precision
from maskrcnn.model import MaskRCNN
from maskrcnn.presets import PRESETS

FORMATS = ("onnx", "pt2")


def export(
    weights: Annotated[
        str | None,
        typer.Argument(metavar="WEIGHTS", help="A weights file, or a name of `pretrained`.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The file to write; model.onnx or model.pt2 by default.", show_default=False
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="onnx or pt2 (PyTorch); as the output ends, or onnx, by default.", show_default=False),
    ] = None,
    purpose: Annotated[
        str | None,
        typer.Option("--for", help="netron: a file to look at in a graph viewer, not to run.", show_default=False),
    ] = None,
    weights_free: Annotated[
        bool, typer.Option("--weights-free", help="For netron: leave the weights out, for a file under 1 MB.")
    ] = False,
    random: Random = False,
    preset: Preset = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Height and width of the input, that a file of one size is for; by default one that holds every "
            "photo. For netron: of the photo to take shapes for.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Images that go through the network together.", min=1)] = 1,
    dynamic: Annotated[
        str, typer.Option(help="What may differ from --size and --batch: size, batch, both or none.")
    ] = "size",
    opset: Annotated[int, typer.Option(help="Version of ONNX's operators.")] = DEFAULT_OPSET,
    preprocessing: Annotated[
        bool,
        typer.Option(
            "--with-preprocessing", help="Take photos as they are, uint8 [1, H, W, 3], and give boxes in them."
        ),
    ] = False,
    paste: Annotated[
        bool, typer.Option("--paste-masks", help="With preprocessing: also give masks of the photo's size.")
    ] = False,
    precision: Annotated[str, typer.Option(help="float32; fp16 or int8 for onnx; bf16 for pt2.")] = "float32",
    calibrate: Annotated[
        Path | None, typer.Option(help="Folder of photos that int8 learns its ranges from.", show_default=False)
    ] = None,
    compile: Annotated[
        bool, typer.Option(help="For pt2: also write it compiled for this machine, which takes minutes.")
    ] = True,
    device: Annotated[
        str | None, typer.Option(help="For pt2: where it will run, cpu (the default) or cuda.", show_default=False)
    ] = None,
    check: Annotated[bool, typer.Option(help="Compare what the file finds with what the network finds.")] = True,
    check_images: Annotated[
        Path | None,
        typer.Option(help="Folder of photos to compare on; made images by default.", show_default=False),
    ] = None,
    evaluate: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Measure AP of the network and of the file on data.", show_default=False),
    ] = None,
    split: Annotated[str, typer.Option(help="Which annotations of DATA: val, train, test.")] = "val",
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> int:
    """Write the network for another program.

    \b
    Examples:
      maskrcnn export runs/photos/best.safetensors -o model.onnx
      maskrcnn export runs/photos/best.safetensors --dynamic none -o fixed.onnx
      maskrcnn export runs/photos/best.safetensors --with-preprocessing --paste-masks -o photo.onnx
      maskrcnn export runs/photos/best.safetensors --precision int8 --calibrate photos/ --evaluate photos/ -o int8.onnx
      maskrcnn export runs/photos/best.safetensors --format pt2 -o model.pt2
      maskrcnn export --preset resnet50-fpn --weights-free --for netron --size 480x640

    --format pt2 writes model.pt2, a program for PyTorch, and model.cpu.pt2, compiled for this machine (AOTInductor).
    The file is compared with the network before it is written. maskrcnn predict and evaluate take it in place of
    weights. With --for netron it is for looking, not for running: nodes carry their module's path, as fpn/lateral4,
    every edge has a shape, and stages of the backbone open with a click on their ƒ.
    """
    if format is None:
        format = "pt2" if output is not None and output.suffix.lower() == ".pt2" else "onnx"
    if format not in FORMATS:
        raise InputError(
            f"There is no export to {format!r}.{did_you_mean(format, list(FORMATS))} There is: {', '.join(FORMATS)}."
        )
    output = output or Path(f"model.{format}")
    if output.suffix.lower() != f".{format}":
        raise InputError(f"--output must end in .{format}; got {output}.")
    if purpose is not None:
        if purpose != "netron":
            raise InputError(f"--for must be netron; got {purpose!r}.")
        if format != "onnx":
            raise InputError(f"--for netron is for --format onnx; got {format}.")
        _refuse_options(
            "has no use with --for netron",
            {
                "--batch": batch != 1,
                "--dynamic": dynamic != "size",
                "--opset": opset != DEFAULT_OPSET,
                "--with-preprocessing": preprocessing,
                "--paste-masks": paste,
                "--precision": precision != "float32",
                "--calibrate": calibrate is not None,
                "--device": device is not None,
                "--check-images": check_images is not None,
                "--evaluate": evaluate is not None,
                "--split": split != "val",
            },
        )
        check_installed()
        output_file(output)
        photo = photo_size(size)
        _for_netron(_network(weights, preset, random, weights_free, overrides, quiet), output, photo, quiet)
        if as_json:
            typer.echo(json.dumps({"output": str(output), "bytes": output.stat().st_size}))
        return 0
    if weights_free:
        raise InputError("--weights-free is for files to look at; give --for netron, too.")
    if dynamic not in get_args(Dynamic):
        raise InputError(f"--dynamic must be {', '.join(get_args(Dynamic))}; got {dynamic!r}.")
    if check_images is not None and not check:
        raise InputError("--check-images and --no-check exclude each other.")
    check_folder(check_images, "--check-images")
    if format == "pt2":
        _refuse_options(
            "is for --format onnx; a .pt2 file has no such thing",
            {
                "--opset": opset != DEFAULT_OPSET,
                "--with-preprocessing": preprocessing,
                "--paste-masks": paste,
                "--calibrate": calibrate is not None,
            },
        )
        if evaluate is not None:
            raise InputError(
                f"--evaluate is for --format onnx; maskrcnn evaluate {output} {evaluate} measures a .pt2 file."
            )
        job: OnnxJob | Pt2Job = Pt2Job(
            output=output,
            batch=batch,
            size=photo_size(size),
            dynamic=dynamic,  # type: ignore[arg-type]  # checked above
            precision=precision,
            device=device,
            compile=compile,
            check=check,
            check_images=check_images,
        )
    else:
        if device not in (None, "cpu"):
            raise InputError("--device is for --format pt2; an ONNX file runs on any.")
        job = OnnxJob(
            output=output,
            batch=batch,
            size=photo_size(size),
            dynamic=dynamic,  # type: ignore[arg-type]  # checked above
            opset=opset,
            preprocessing=preprocessing,
            paste=paste,
            precision=_precision(precision),
            calibrate=calibrate,
            check=check,
            check_images=check_images,
            evaluate=evaluate,
            split=split,
        )
    job.validate()
    output_file(output)
    model = _network(weights, preset, random, False, overrides, quiet)
    assert isinstance(model, MaskRCNN)  # only a file without weights is content with a configuration
    report = reporter(quiet)
    summary = to_pt2(model, job, report) if isinstance(job, Pt2Job) else to_onnx(model, job, report)
    if as_json:
        typer.echo(json.dumps(summary))
    return 0


def _refuse_options(why: str, given: Mapping[str, bool]) -> None:
    """Refuse options that would not be heeded."""
    for option, is_given in given.items():
        if is_given:
            raise InputError(f"{option} {why}.")


def _precision(text: str) -> Precision:
    if text not in get_args(Precision):
        raise InputError(f"--precision must be {', '.join(get_args(Precision))}; got {text!r}.")
    return text  # type: ignore[return-value]  # checked above


def _for_netron(network: MaskRCNN | Config, output: Path, photo: tuple[int, int] | None, quiet: bool) -> None:
    """Write the file for graph viewers."""
    report = reporter(quiet)
    with report.bar("exporting", 1) as bar:
        export_for_netron(network, output, photo, weights=isinstance(network, MaskRCNN))
        bar.advance()
    report.say(
        f"Wrote {bold(output)}, {output.stat().st_size / 1e6:.1f} MB, for looking at, not for running. Open it at "
        f"https://netron.app, or: pip install netron, then netron {escape(str(output))}"
    )


def _network(
    weights: str | None, preset: str | None, random: bool, weights_free: bool, overrides: list[str] | None, quiet: bool
) -> MaskRCNN | Config:
    """Return the network that is asked for; its configuration alone where that is enough."""
    if weights is not None and (random or preset is not None):
        raise InputError(f"--random and --preset take no weights; leave out {weights}, or the option.")
    if weights in PRESETS and not Path(str(weights)).exists():
        raise InputError(f"{weights} is a preset; name it with --preset {weights}.")
    if weights is not None:
        model = load_on(weights, "cpu", overrides, quiet)
        return model.config if weights_free else model
    if not random and preset is None:
        raise InputError("Name a weights file, or a preset: maskrcnn export --preset resnet50-fpn --random")
    config = random_config(preset, parse_overrides(overrides))
    if weights_free:
        return config
    torch.manual_seed(0)
    return MaskRCNN(config)
