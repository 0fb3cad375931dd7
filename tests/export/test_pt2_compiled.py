"""A network compiled ahead of time finds the same here, in a Python process without this package, and in C++.

One network is compiled and one program built for all these tests, which takes a minute or two.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from maskrcnn.devices import compiler_missing
from maskrcnn.errors import InputError
from maskrcnn.export.check import compare
from maskrcnn.export.graph import choose_sizes
from maskrcnn.export.pt2 import compiled_path, write_compiled, write_program
from maskrcnn.export.pt2_model import load_pt2
from tiny import tiny_data, tiny_model

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(compiler_missing() is not None, reason=compiler_missing() or ""),
]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tiny_model(image__resize="float", image__min_size=96, image__max_size=128).eval()


@pytest.fixture(scope="module")
def compiled(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("compiled") / "model.pt2"
    sizes = choose_sizes(model.config, 1, (96, 128), "both")
    write_compiled(write_program(model, path, sizes), model, compiled_path(path), sizes)
    return compiled_path(path)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.ppm"
    Image.fromarray(tiny_data(1)[0][0]).resize((80, 60)).save(path)
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The example in C++, built."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not there")
    folder = tmp_path_factory.mktemp("build")
    torch_at = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    configure = ["cmake", "-S", str(EXAMPLES / "cpp"), "-B", str(folder), torch_at, "-DCMAKE_BUILD_TYPE=Release"]
    for command in (configure, ["cmake", "--build", str(folder)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "detect"


def lines(*command):
    """What a process prints, as (class, numbers); it cannot import this package."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return [(line.split()[0], [float(v) for v in line.split()[1:]]) for line in done.stdout.splitlines()]


def assert_prints_what_we_find(printed, model, photo):
    [found] = model.predict(photo, 0.0)
    assert len(printed) == len(found) > 0
    assert [name for name, _ in printed] == found.names
    scores, boxes = ([numbers[part] for _, numbers in printed] for part in (0, slice(1, 5)))
    torch.testing.assert_close(torch.tensor(scores), found.scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.tensor(boxes), found.boxes, rtol=1e-4, atol=1e-3)


def test_it_finds_what_the_network_finds_in_images_of_any_size(model, compiled):
    photos = [tiny_data(1)[0][0], torch.rand(3, 90, 40), torch.rand(3, 30, 120)]
    found = compare(model, load_pt2(compiled, trust=True), photos)
    assert found.detections > 10 and found.holds


def test_it_takes_several_images_at_once(model, compiled):
    photos = [image for image, _ in tiny_data(3)]
    one, three = (load_pt2(compiled, trust=True).predict(photos, 0.0, batch_size=b) for b in (1, 3))
    for a, b in zip(one, three, strict=True):
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-5)


def test_it_is_not_run_unless_it_is_trusted(compiled):
    with pytest.raises(InputError, match=r"is compiled: loading it runs native code"):
        load_pt2(compiled)


def test_a_python_process_without_this_package_finds_the_same(model, compiled, photo):
    example = EXAMPLES / "pt2_python" / "detect.py"
    hidden = "import sys, runpy; sys.modules['maskrcnn'] = None; sys.argv = sys.argv[1:]; "
    command = hidden + "runpy.run_path(sys.argv[0], run_name='__main__')"
    printed = lines(sys.executable, "-c", command, example, compiled, photo, "--least-score", 0)
    assert_prints_what_we_find(printed, model, photo)


def test_a_cpp_process_finds_the_same(model, compiled, photo, program):
    assert_prints_what_we_find(lines(program, compiled, photo, 0), model, photo)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["model.pt2", "none.ppm"], "none.ppm is not a PPM photo"),
        (["none.pt2", "photo.ppm"], "Error: "),
        ([], "usage: detect MODEL.pt2 PHOTO.ppm"),
    ],
    ids=["no photo", "no network", "nothing"],
)
def test_the_cpp_example_says_what_is_wrong_in_a_line(program, photo, arguments, told):
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, cwd=photo.parent)
    assert done.returncode in (1, 2) and told in done.stderr and done.stderr.count("\n") == 1
