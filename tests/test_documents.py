"""The README's code and the examples run as they stand."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import maskrcnn
from maskrcnn.data import ShapesDataset

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path):
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    """A folder with the files that the documents speak of."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("photo.jpg", "another.jpg"):
        Image.fromarray(rng.integers(0, 256, (90, 120, 3), np.uint8)).save(tmp_path / name)
    small = {"image.min_size": 64, "image.max_size": 96, "backbone.width": 8, "fpn.channels": 16}
    config = maskrcnn.Config.preset("small-fpn", class_names=ShapesDataset.class_names, overrides=small)
    torch.manual_seed(0)
    maskrcnn.MaskRCNN(config).save(tmp_path / "weights.safetensors")
    monkeypatch.setattr("maskrcnn.optimized.build.compiler_missing", lambda: "compiling would take a minute")


def export_if_spoken_of(code):
    """Write the exported file that a document loads; in a process without shape checks, which tracing cannot pass."""
    options_of = {"model.pt2": ["--no-compile"], "photo.onnx": ["--with-preprocessing", "--paste-masks"]}
    for name in re.findall(r'(?:load_exported|InferenceSession)\("(\w+\.\w+)"', code):
        options = options_of.get(name, [])
        command = [sys.executable, "-m", "maskrcnn", "export", "weights.safetensors", "-o", name, "--quiet", *options]
        subprocess.run(command, check=True)


@pytest.mark.parametrize("path", DOCUMENTS, ids=[p.name for p in DOCUMENTS])
@pytest.mark.usefixtures("in_folder")
def test_code_in_documents_runs(path):
    namespace = {}
    assert blocks(path)
    export_if_spoken_of("".join(blocks(path)))
    for block in blocks(path):
        exec(compile(block, path.name, "exec"), namespace)


def test_the_readme_has_code():
    assert len(blocks(ROOT / "README.md")) >= 2


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_examples_run(path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [path.name])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


@pytest.mark.parametrize("path", DOCUMENTS, ids=[p.name for p in DOCUMENTS])
def test_links_to_files_of_the_repository_lead_somewhere(path):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8"))
    missing = [t for t in targets if not (path.parent / t).exists()]
    assert not missing


def test_public_names_are_the_listed_ones():
    assert sorted(maskrcnn.__all__) == (ROOT / "tests" / "public_names.txt").read_text().split()
    assert all(hasattr(maskrcnn, name) for name in maskrcnn.__all__)
