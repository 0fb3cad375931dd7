"""Files are known by how they begin; what is no file of weights is called by its name."""

import bz2
import gzip
import io
import os
import pickle
import tarfile

import pytest

from maskrcnn.errors import CheckpointError
from maskrcnn.weights.recognise import recognise

KNOWN = {
    "safetensors": b"\x10\0\0\0\0\0\0\0{}",
    "torch": b"PK\3\4",
    "torch before 1.6": b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
    "hdf5": b"\x89HDF\r\n\x1a\n\0",
}


def _tar():
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return memory.getvalue()


FOREIGN = {
    "empty": (b"", "is empty: download it again"),
    "web page": (b"\n<!DOCTYPE html><html>", "is a web page, not weights"),
    "XML": (b"<?xml version='1.0'?><Error>AccessDenied", "is a web page, not weights"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "is a Git LFS pointer.*git lfs pull"),
    "gzip": (gzip.compress(b"x"), "is compressed: unpack it"),
    "bzip2": (bz2.compress(b"x"), "is compressed: unpack it"),
    "tar": (_tar(), "is a tar archive: unpack it"),
    "TensorFlow index": (b'model_checkpoint_path: "model.ckpt-1"', "is the index of a TensorFlow checkpoint"),
    "ONNX": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\xff\x01", "is an ONNX model: load the weights that"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3\0", "is a TensorFlow Lite model"),
    "image": (b"\x89PNG\r\n\x1a\n", "is an image"),
    "zeros": (b"\0" * 5000, "holds only zeros: download it again"),
    "text": (b"hello, I am not weights", 'is text, beginning "hello, I am not weights": load a safetensors'),
    "JSON": (b'{"a": 1}', "is text, beginning"),
    "noise": (b"\xfe\xed\xfa\xce\x01\x02", "is of no known kind, or damaged: load a safetensors"),
}
NAMED = ["model.ckpt-7.data-00000-of-00001", "model.ckpt-7.index", "model.ckpt-7.meta", "frozen_inference_graph.pb"]


@pytest.mark.parametrize("container", KNOWN)
@pytest.mark.parametrize("name", ["x", "x.h5", "x.pth", "x.safetensors"])
def test_containers_are_known_by_their_first_bytes(tmp_path, container, name):
    (tmp_path / name).write_bytes(KNOWN[container])
    assert recognise(tmp_path / name) == container


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("thing", [{"model": {"a": 1}}, {}, {"a": 1, "b": 2}], ids=["nested", "empty", "two"])
def test_pickles_of_all_protocols_are_known(tmp_path, protocol, thing):
    (tmp_path / "x.h5").write_bytes(pickle.dumps(thing, protocol))
    assert recognise(tmp_path / "x.h5") == "pickle"


@pytest.mark.parametrize("case", FOREIGN)
def test_other_files_are_called_by_name(tmp_path, case):
    data, message = FOREIGN[case]
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"x\.pth {message}"):
        recognise(tmp_path / "x.pth")


@pytest.mark.parametrize("name", NAMED)
def test_tensorflow_s_files_are_known_by_their_names(tmp_path, name):
    (tmp_path / name).write_bytes(b"\n\x92\xa4\x01\x0a\x1d")
    with pytest.raises(CheckpointError, match=f"{name} looks like a TensorFlow model or checkpoint: convert it"):
        recognise(tmp_path / name)


def test_folders_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder: load a"):
        recognise(tmp_path)
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(CheckpointError, match="is a TensorFlow SavedModel: load a"):
        recognise(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"Cannot read .*x\.pth: No such file"):
        recognise(tmp_path / "x.pth")


def test_paths_that_no_system_takes_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="Cannot read .*: File name too long"):
        recognise(tmp_path / ("x" * 5000))


def test_pipes_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="pipe is no regular file"):
        recognise(tmp_path / "pipe")
