"""`maskrcnn export --format onnx`, and predict and evaluate with what it writes."""

import contextlib
import importlib.util
import io
import json

import pytest
from cli_words import words
from PIL import Image

from maskrcnn.cli import main
from maskrcnn.data import save_as_coco
from maskrcnn.export.agreement import Agreement
from maskrcnn.export.onnx.runtime import OnnxModel
from tiny import tiny_data

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--opset", "11"], "Opset 11 is too old: the network needs 18 or more"),
        (["--opset", "99"], "Opset 99 is too new: ONNX Runtime has RoiAlign up to 21 alone."),
        (["--size", "100x128"], "The exported height must be a multiple of 32 (image.size_divisor)"),
        (["--size", "96x32000"], "--size must be height x width in pixels, 1 to 20000"),
        (["--size", "32x64", "--dynamic", "none"], "The exported height must be a multiple of 32"),
        (["--dynamic", "all"], "--dynamic must be batch, size, both, none; got 'all'."),
        (["--precision", "int4"], "--precision must be float32, fp16, int8; got 'int4'."),
        (["--precision", "int8"], "--precision int8 and --calibrate FOLDER belong together"),
        (["--precision", "int8", "--calibrate", "nowhere"], "--calibrate: nowhere: no such file or folder"),
        (["--check-images", "nowhere"], "--check-images: nowhere: no such file or folder"),
        (["--paste-masks"], "--paste-masks needs --with-preprocessing"),
        (["--with-preprocessing", "--batch", "2"], "--with-preprocessing takes one photo at a time"),
        (["--device", "cuda"], "--device is for --format pt2"),
        (["--weights-free"], "--weights-free is for files to look at; give --for netron, too."),
        (["--evaluate", "nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_refused_before_the_work(run, weights, tmp_path, monkeypatch, options, told):
    monkeypatch.chdir(tmp_path)
    status, out, err = run("export", weights, *options)
    assert (status, out) == (2, "")
    assert told in words(err) and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_size_that_no_photo_fits_in_is_told_with_what_to_set(run, weights, tmp_path):
    output = tmp_path / "m.onnx"
    options = ("--size", "96x128", "--dynamic", "none", "--set", "image.min_size=100", "--set", "image.max_size=160")
    status, _, err = run("export", weights, *options, "-o", output)
    assert status == 2
    assert "No photo fits in 96 × 128: image.min_size makes the shorter side of each 100." in words(err)
    assert "--set image.min_size=96 --set image.max_size=128" in words(err)


def test_preprocessing_inside_must_have_room_for_every_photo(run, weights, tmp_path):
    options = ("--size", "96x128", "--dynamic", "none", "--with-preprocessing", "--set", "image.max_size=128")
    status, _, err = run("export", weights, *options, "-o", tmp_path / "m.onnx")
    assert status == 2
    assert "leave out --dynamic none, or give --size 128x128." in words(err)


def test_an_empty_folder_to_calibrate_with_is_told(run, weights, tmp_path):
    (tmp_path / "empty").mkdir()
    status, _, err = run("export", weights, "--precision", "int8", "--calibrate", tmp_path / "empty", "-o", "m.onnx")
    assert status == 2 and "holds no pictures" in words(err)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_told_with_how_to_get_it(run, weights, monkeypatch, tmp_path, package):
    found = importlib.util.find_spec
    monkeypatch.setattr("maskrcnn.export.onnx.find_spec", lambda name: None if name == package else found(name))
    status, _, err = run("export", weights, "-o", tmp_path / "m.onnx")
    assert status == 2
    assert f'ONNX files need the package {package}: pip install "maskrcnn[export]"' in words(err)


def test_other_commands_say_that_they_want_weights(run, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"")
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    for command in (("trace", tmp_path / "m.onnx", tmp_path / "photo.png"), ("export", tmp_path / "m.onnx")):
        status, _, err = run(*command)
        assert status == 2 and "is an exported network, which predict and evaluate take" in words(err)


def test_a_file_of_another_program_is_refused_in_a_sentence(run, tmp_path):
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    opset = onnx.helper.make_opsetid("", 18)
    onnx.save(onnx.helper.make_model(graph, ir_version=8, opset_imports=[opset]), tmp_path / "m.onnx")
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    status, _, err = run("predict", tmp_path / "m.onnx", tmp_path / "photo.png", "-o", tmp_path / "out")
    assert status == 2 and "Traceback" not in err
    assert "was not written by maskrcnn export --format onnx" in words(err)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    save_as_coco(tiny_data(3), folder)
    return folder / "annotations.json"


@pytest.fixture(scope="module")
def made(weights, data, tmp_path_factory):
    """An 8-bit file, and the status, the output and the messages of the command that wrote and measured it."""
    path, out, err = tmp_path_factory.mktemp("onnx") / "m.onnx", io.StringIO(), io.StringIO()
    images = next(p for p in data.parent.rglob("*.png")).parent
    options = ["--precision", "int8", "--calibrate", images, "--evaluate", data, "--check-images", images, "--json"]
    fixed = ["--size", "96x96", "--dynamic", "none", "--set", "image.max_size=96", "--set", "box.score_threshold=0.2"]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(word) for word in ("export", weights, *options, *fixed, "-o", path)])
    return path, status, out.getvalue(), err.getvalue()


@pytest.mark.compiled
@pytest.mark.filterwarnings("default")
def test_a_file_is_written_compared_and_measured(made):
    path, status, out, err = made
    told = json.loads(out)
    assert status == 0, err
    assert told["bytes"] == path.stat().st_size and told["precision"] == "int8" and told["opset"] == 18
    assert "(100.0 %)" in told["check"] and "matched" in told["whole"]
    assert set(told["evaluation"]["lost"]) == {"box", "mask"}
    assert "Compared with the network:" in words(err) and "mask AP:" in words(err) and "lost." in words(err)


@pytest.mark.compiled
@pytest.mark.filterwarnings("default")
def test_predict_and_evaluate_take_the_file_in_place_of_weights(made, run, data, tmp_path):
    image = next(data.parent.rglob("*.png"))
    status, out, err = run("predict", made[0], image, "-o", tmp_path / "out", "--threshold", 0, "--json")
    assert status == 0, err
    assert json.loads(out)["detections"] > 0
    status, out, err = run("evaluate", made[0], data, "--json")
    assert status == 0, err
    assert json.loads(out)["num_images"] == 3


@pytest.mark.compiled
@pytest.mark.filterwarnings("default")
def test_a_configuration_that_is_exported_cannot_be_changed(made, run, tmp_path):
    Image.new("RGB", (90, 100)).save(tmp_path / "photo.png")
    change = ("--set", "box.nms_threshold=1")
    status, _, err = run("predict", made[0], tmp_path / "photo.png", "-o", tmp_path / "out", *change)
    assert status == 2 and "whose configuration --set cannot change; export it anew" in words(err)


@pytest.mark.compiled
@pytest.mark.filterwarnings("default")
def test_a_file_that_finds_something_else_is_not_written(run, weights, tmp_path, monkeypatch):
    monkeypatch.setattr("maskrcnn.export.onnx.write.build", lambda *arguments: onnx.ModelProto())
    monkeypatch.setattr("maskrcnn.export.onnx.write.write", lambda *arguments: None)
    monkeypatch.setattr("maskrcnn.export.onnx.runtime.load_onnx", lambda path: OnnxModel(*[None] * 3))
    monkeypatch.setattr("maskrcnn.cli.export_onnx.images_to_check", lambda *arguments: [])
    monkeypatch.setattr("maskrcnn.cli.export_onnx.compare", lambda *arguments: Agreement(4, 3, 0.5))
    status, _, err = run("export", weights, "-o", tmp_path / "m.onnx")
    assert status == 1
    assert "m.onnx does not find what the network finds: 3 of 4 detections matched (75.0 %)" in words(err)
    assert not list(tmp_path.iterdir())
