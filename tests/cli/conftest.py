"""Tiny networks on one thread: they are quicker so, above all where other processes run."""

import pytest
import torch
from PIL import Image

from maskrcnn.cli import main
from maskrcnn.data import save_as_coco
from tiny import TINY, tiny_data, tiny_model

SETTINGS = [
    word
    for key, value in TINY.items()
    for word in ("--set", f"{key}={value}".replace("(", "[").replace(")", "]").replace(",]", "]"))
]


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def settings():
    """Options that make of the preset small-fpn the tiny network."""
    return SETTINGS


@pytest.fixture
def run(capsys):
    """Run the command line; return its status, standard output and standard error."""

    def command(*arguments):
        status = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


@pytest.fixture
def train(run, tmp_path):
    """Train the tiny network on a data set for an epoch."""

    def command(data, *arguments, output=tmp_path / "run"):
        return run(
            "train", data, "-o", output, "--epochs", 1, "--batch-size", 2, "--device", "cpu", *SETTINGS, *arguments
        )

    return command


@pytest.fixture(scope="package")
def weights(tmp_path_factory):
    """Weights of the tiny network, random ones."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    tiny_model().save(path)
    return path


@pytest.fixture
def album(tmp_path):
    """A folder of three photos."""
    folder = tmp_path / "album"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(tiny_data()[index][0]).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def labelled(tmp_path):
    """A folder as `train` wants it: annotations/train.json and val.json, and the images."""
    folder = tmp_path / "photos"
    for split, data in (("train", tiny_data(4)), ("val", tiny_data(2, seed=1))):
        path = save_as_coco(data, folder / split)
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / split / "images").rename(folder / "annotations" / split)
        path.rename(folder / "annotations" / f"{split}.json")
        (folder / split).rmdir()
    return folder
