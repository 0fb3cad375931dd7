"""`maskrcnn export --format pt2`, and predict and evaluate with what it writes."""

import contextlib
import io
import json

import pytest
from cli_words import words
from PIL import Image

from maskrcnn.cli import main
from maskrcnn.export import pt2
from tiny import tiny_data


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["-o", "m.onnx"], "--output must end in .pt2; got m.onnx."),
        (["--opset", "20"], "--opset is for --format onnx"),
        (["--with-preprocessing"], "--with-preprocessing is for --format onnx"),
        (["--precision", "int8"], "--precision must be float32 or bf16 for .pt2 files; got 'int8'."),
        (["--evaluate", "shapes"], "maskrcnn evaluate model.pt2 shapes measures a .pt2 file."),
        (["--device", "tpu", "--no-compile"], "The device 'tpu' cannot be used here"),
    ],
    ids=["ending", "opset", "preprocessing", "precision", "evaluate", "device"],
)
def test_what_pt2_files_have_not_is_refused(run, weights, options, told):
    status, _, err = run("export", weights, "--format", "pt2", *options)
    assert status == 2 and told in words(err)


def test_without_a_compiler_the_way_out_is_named(run, weights, monkeypatch, tmp_path):
    monkeypatch.setattr(pt2, "compiler_missing", lambda: "There is no C++ compiler g++. Install one.")
    status, _, err = run("export", weights, "-o", tmp_path / "m.pt2")
    assert status == 2
    assert "There is no C++ compiler g++. Install one. The program alone needs no compiler: --no-compile." in words(err)
    assert not (tmp_path / "m.pt2").exists()


@pytest.fixture(scope="module")
def made(weights, tmp_path_factory):
    """A program, and the status, the output and the messages of the command that wrote it."""
    path, out, err = tmp_path_factory.mktemp("program") / "m.pt2", io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["export", str(weights), "--no-compile", "--json", "-o", str(path)])
    return path, status, out.getvalue(), err.getvalue()


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(tiny_data(1)[0][0]).resize((96, 96)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.compiled
@pytest.mark.filterwarnings("default")
def test_a_program_is_written_compared_and_told(made):
    path, status, out, err = made
    assert status == 0
    told = json.loads(out)
    assert (told["output"], told["compiled"], told["precision"]) == (str(path), None, "float32")
    assert "detections matched (100.0 %)" in told["check"]
    assert "Wrote" in err and "a program" in words(err)


@pytest.mark.compiled
@pytest.mark.filterwarnings("default")
def test_a_program_predicts_and_is_evaluated_as_weights_are(run, made, photo, tmp_path):
    options = ("--threshold", "0.05", "--json", "-q", "-o", tmp_path / "found")
    status, out, _ = run("predict", made[0], photo, *options)
    found = json.loads(out)
    assert (status, found["images"]) == (0, 1) and found["detections"] > 0
    assert {r["image_id"] for r in found["results"]} == {str(photo)}
    status, out, _ = run("evaluate", made[0], "shapes", "--json", "-q")
    assert status == 0 and "box" in out


@pytest.mark.compiled
@pytest.mark.filterwarnings("default")
def test_the_configuration_of_a_program_cannot_be_set(run, made, photo):
    status, _, err = run("predict", made[0], photo, "--set", "rpn.nms_threshold=0.5")
    assert status == 2 and "--set cannot change" in words(err)
