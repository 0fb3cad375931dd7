"""The part of `maskrcnn export` that writes .pt2 files: a program of torch.export, and the same compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskrcnn.cli.common import bold
from maskrcnn.cli.export_onnx import check_photos_fit
from maskrcnn.devices import choose_device
from maskrcnn.errors import InputError
from maskrcnn.export.check import compare, images_to_check, require_same
from maskrcnn.export.graph import Dynamic, choose_sizes
from maskrcnn.model import MaskRCNN
from maskrcnn.progress import Reporter

PRECISIONS = {"float32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Pt2Job:
    """What is asked of .pt2 files; the names are those of the command's options."""

    output: Path
    batch: int
    size: tuple[int, int] | None
    dynamic: Dynamic
    precision: str
    device: str | None
    compile: bool
    check: bool
    check_images: Path | None

    def validate(self) -> None:
        """Refuse what cannot be, before any work is done."""
        from maskrcnn.export.pt2 import check_compiler

        if self.precision not in PRECISIONS:
            raise InputError(f"--precision must be {' or '.join(PRECISIONS)} for .pt2 files; got {self.precision!r}.")
        device = choose_device(self.device or "cpu").type
        if device not in ("cpu", "cuda"):
            raise InputError(f"--device must be cpu or cuda for .pt2 files; got {self.device}.")
        if self.compile:
            check_compiler(device)


def to_pt2(model: MaskRCNN, job: Pt2Job, report: Reporter) -> dict[str, Any]:
    """Write the files and return what the command tells of them."""
    from maskrcnn.export.pt2 import compiled_path, write_compiled, write_program

    sizes = choose_sizes(model.config, job.batch, job.size, job.dynamic)
    check_photos_fit(model, sizes)
    how: dict[str, Any] = {"precision": PRECISIONS[job.precision], "device": job.device or "cpu"}
    compiled = compiled_path(job.output, how["device"]) if job.compile else None
    summary: dict[str, Any] = {"output": str(job.output), "compiled": compiled and str(compiled), **how}
    with report.bar("exporting", 2 if compiled is None else 3) as bar:
        bar.advance("tracing the network; this takes a while")
        program = write_program(model, job.output, sizes, check=_checked(model, job, "check", summary), **how)
        if compiled is not None:
            bar.advance("compiling it; this takes minutes")
            check = _checked(model, job, "check_compiled", summary)
            write_compiled(program, model, compiled, sizes, check=check, **how)
        bar.advance()
    report.say(_wrote(job.output, "a program", summary.get("check")))
    stale = compiled_path(job.output, how["device"])
    if compiled is None and stale.exists():
        report.warn(f"{stale} is of an earlier export, not of this one; remove it.")
    if compiled is not None:
        report.say(_wrote(compiled, "compiled for this machine", summary.get("check_compiled")))
    return summary


def _wrote(path: Path, what: str, check: str | None) -> str:
    return f"Wrote {bold(path)}, {what}, {path.stat().st_size / 1e6:.1f} MB.{f' {check}' if check else ''}"


def _checked(model: MaskRCNN, job: Pt2Job, name: str, summary: dict[str, Any]) -> Callable[[Path], None]:
    """Return what compares a file with the network and tells the result; bfloat16 need not find the same."""
    from maskrcnn.export.pt2_model import load_pt2

    def check(path: Path) -> None:
        exported = load_pt2(path, trust=name == "check_compiled")
        if job.check:
            found = compare(model, exported, images_to_check(job.check_images, exported.sizes))
            if job.precision == "float32":
                require_same(found, path.name)
            summary[name] = str(found)

    return check
