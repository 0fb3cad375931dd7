"""The network as files of PyTorch's own: a program that `torch.export` wrote, and the same compiled for one machine.

The two are two files, since `torch.export.load` also loads the native code that it finds beside a program: a file that
held both could not be read without running it, nor where it does not fit.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.pt2_archive._package import package_pt2

from maskrcnn import __version__
from maskrcnn.devices import compiler_missing
from maskrcnn.errors import InputError
from maskrcnn.export.graph import ExportedGraph, Sizes, output_names
from maskrcnn.files import replacing
from maskrcnn.model import MaskRCNN

ABOUT = "maskrcnn.json"
"""The part of a file that tells the configuration, the sizes of input, and what it was made with."""

Precision = Literal["float32", "bfloat16"]
"""What the weights are, and what is computed in; inputs and outputs are float32 all the same."""


class _Cast(nn.Module):
    """A graph whose images are float32 whatever its weights are."""

    def __init__(self, graph: ExportedGraph, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = graph, dtype  # torch has an attribute called graph of its own

    def forward(self, images: Tensor, sizes: Tensor, offsets: Tensor | None = None) -> dict[str, Tensor]:
        found = self.network(images.to(self.dtype), sizes, offsets)
        return {name: value.float() if value.is_floating_point() else value for name, value in found.items()}


def write_program(
    model: MaskRCNN,
    path: Path,
    sizes: Sizes,
    precision: Precision = "float32",
    device: str = "cpu",
    check: Callable[[Path], None] = lambda path: None,
) -> ExportedProgram:
    """Write the network as a program of `torch.export`, and return that.

    Args:
        model: stays as it is.
        path: of the file, which ends in .pt2.
        sizes: of the input; see `choose_sizes`.
        precision: of weights and computation.
        device: cpu or cuda, where the program will run.
        check: is given the file before it takes its place; what it raises leaves the place as it was.

    Raises:
        WriteError: the file cannot be written.
    """
    program = trace(model, sizes, precision, device)
    with replacing(path) as new:
        with _without_noise():
            about = _about(model, sizes, precision, device, "program")
            torch.export.save(program, str(new), extra_files={ABOUT: about})
        check(new)
    return program


def trace(model: MaskRCNN, sizes: Sizes, precision: Precision = "float32", device: str = "cpu") -> ExportedProgram:
    """Return the network as a graph of torch's operators."""
    graph = ExportedGraph(model).to(device)
    module: nn.Module = graph if precision == "float32" else _Cast(graph.to(torch.bfloat16), torch.bfloat16)
    inputs = [tensor.to(device) for tensor in sizes.example(model.config)]
    with torch.no_grad(), _without_noise():
        program = torch.export.export(
            module, tuple(inputs), dynamic_shapes=sizes.dynamic_shapes(model.config), strict=False
        )
    for part in program.graph_module.modules():
        for node in getattr(part, "graph", torch.fx.Graph()).nodes:
            for told in ("stack_trace", "torch_fn", "source_fn_stack", "from_node", "custom"):
                node.meta.pop(told, None)  # folders of this machine, and how it was traced
    zeros = tuple(tensor.new_zeros(1).expand(tensor.shape) for tensor in inputs)  # one number in the file each
    program.example_inputs = (zeros, {})
    return program


def compiled_path(program: Path, device: str = "cpu") -> Path:
    """Return where the compiled network is put, given where its program is.

    Example:
        >>> compiled_path(Path("photos/model.pt2"))
        PosixPath('photos/model.cpu.pt2')
    """
    return program.with_name(f"{program.stem}.{device.partition(':')[0]}.pt2")


def write_compiled(
    program: ExportedProgram,
    model: MaskRCNN,
    path: Path,
    sizes: Sizes,
    precision: Precision = "float32",
    device: str = "cpu",
    check: Callable[[Path], None] = lambda path: None,
) -> None:
    """Compile a program ahead of time (AOTInductor), for this machine, and write it.

    Args:
        program: what `write_program` returned.
        model: that it was made from.
        path: of the file, which ends in .pt2.
        sizes: that it was made for.
        precision: that it was made with.
        device: cpu or cuda, that it was made for.
        check: as for `write_program`.

    Raises:
        InputError: there is no compiler here that can do it, or it failed.
        WriteError: the file cannot be written.
    """
    check_compiler(device)
    inputs = tuple(tensor.to(device) for tensor in sizes.example(model.config))
    options = {
        "aot_inductor.package": True,
        "aot_inductor.metadata": _for_other_programs(model, sizes),
        "freezing": device == "cpu",  # weights laid out once as this processor's convolutions want them
    }
    with tempfile.TemporaryDirectory(prefix="maskrcnn-") as folder, replacing(path) as new:
        with torch.no_grad(), _without_noise():
            options["aot_inductor.output_path"] = folder
            try:
                files = torch._inductor.aot_compile(program.module(), inputs, options=options)
            except Exception as e:  # whatever a compiler trips over
                raise InputError(f"Compiling for {device} failed: {_reason(e)}. {NO_COMPILE}") from e
            about = _about(model, sizes, precision, device, "compiled")
            package_pt2(str(new), aoti_files={"model": files}, extra_files={ABOUT: about})  # type: ignore[dict-item]
        check(new)


NO_COMPILE = "The program alone needs no compiler: --no-compile."


def check_compiler(device: str) -> None:
    """Raise `InputError` where nothing can be compiled for a device."""
    missing = compiler_missing()
    if missing is not None:
        raise InputError(f"{missing} {NO_COMPILE}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"There is no CUDA GPU here to compile for. {NO_COMPILE}")


def _reason(error: Exception) -> str:
    """Return the line of a compiler's message that tells most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else type(error).__name__)[:300]


def _about(model: MaskRCNN, sizes: Sizes, precision: Precision, device: str, kind: str) -> str:
    """Return what a file tells of itself, as JSON."""
    return json.dumps(
        {
            "kind": kind,
            "maskrcnn": __version__,
            "torch": torch.__version__,
            "configuration": json.loads(model.config.to_json()),
            "sizes": asdict(sizes),
            "outputs": output_names(model.config),
            "precision": precision,
            "device": torch.device(device).type,
            "processor": torch.backends.cpu.get_cpu_capability(),
        }
    )


def _for_other_programs(model: MaskRCNN, sizes: Sizes) -> dict[str, str]:
    """Return what a program in C++ wants to know, as plain text by names, numbers with spaces between them."""
    image = model.config.image

    def text(values: Sequence[Any]) -> str:
        return " ".join(f"{v:.9g}" if isinstance(v, float) else str(v) for v in values)

    told = {
        "outputs": text(output_names(model.config)),
        "class_names": "\n".join(" ".join(name.split()) for name in model.config.class_names),
        "input": text([sizes.batch, sizes.height, sizes.width]),
        "dynamic": sizes.dynamic,
        "least_side": str(sizes.least),
        "size_divisor": str(image.size_divisor),
        "resize": image.resize,
        "min_size": str(image.min_size),
        "max_size": str(image.max_size),
        "channel_order": image.channel_order,
        "pixel_scale": text([image.pixel_scale]),
        "mean": text(image.mean),
        "std": text(image.std),
        "padding": f"{image.padding} {image.padding_place} {image.padding_fill}",
        "box_corners": model.config.box_corners,
    }
    return {f"maskrcnn.{name}": value for name, value in told.items()}


@contextmanager
def _without_noise() -> Iterator[None]:
    """Keep back what torch warns of itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
