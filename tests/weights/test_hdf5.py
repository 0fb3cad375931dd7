"""Keras' HDF5 files: arrays by path; what leads elsewhere, or is not there, is refused by name."""

import contextlib
import json
import sys

import numpy as np
import pytest
import torch

from maskrcnn.errors import CheckpointError
from maskrcnn.weights.hdf5 import read_hdf5
from maskrcnn.weights.pickles import RefusedError
from maskrcnn.weights.read import read

h5py = pytest.importorskip("h5py")

KERNEL = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)


def write(path, fill):
    with h5py.File(path, "w") as file:
        file["conv1/conv1/kernel:0"] = KERNEL
        fill(file)
    return path


def test_arrays_come_back_by_their_paths(tmp_path):
    def fill(file):
        file.attrs["layer_names"] = np.array([b"conv1", b"input"])
        file.attrs["keras_version"] = "2.0.8"
        file.create_group("input").attrs["weight_names"] = np.zeros(0)
        file["half"] = np.ones(3, np.float16)
        file["big"] = np.arange(3, dtype=">f8")
        file["step"] = np.int64(7)
        file["chunked"] = np.zeros(0)
        del file["chunked"]
        file.create_dataset("chunked", data=np.ones((5, 7), np.float32), chunks=(2, 4))

    found = read(write(tmp_path / "x.weights", fill))
    assert found.container == "hdf5" and found.metadata == {}
    assert sorted(found.tensors) == ["big", "chunked", "conv1/conv1/kernel:0", "half", "step"]
    torch.testing.assert_close(found.tensors["conv1/conv1/kernel:0"], torch.from_numpy(KERNEL))
    assert found.tensors["big"].tolist() == [0, 1, 2] and found.tensors["big"].dtype == torch.float64
    assert found.tensors["chunked"].sum() == 35
    assert found.tensors["step"].item() == 7 and found.tensors["half"].dtype == torch.float16


def test_whole_models_lose_what_surrounds_the_weights(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["model_weights/conv1/conv1/kernel:0"] = KERNEL
        file["optimizer_weights/Adam/m:0"] = KERNEL
        file["optimizer_weights/names"] = ["a", "b"]
    assert list(read_hdf5(tmp_path / "x.h5")) == ["conv1/conv1/kernel:0"]


def test_a_real_files_sample_comes_back(shared):
    folder = shared / "parity" / "matterport-resnet101-7classes"
    found = read(folder / "h5_sample.h5").tensors
    names = {tensor["key"] for tensor in json.loads((folder / "manifest.json").read_text())["tensors"]}
    assert len(found) == 26 and found.keys() <= names


def _late(file):
    file.create_dataset("late", (1 << 40,), np.float32)


def _partly(file):
    file.create_dataset("partly", (1 << 20, 1 << 20), np.float32, chunks=(64, 64))[0, 0] = 1


def _external_storage(file):
    file.create_dataset("away", (10,), np.uint8, external=[("/etc/passwd", 0, 10)])


def _virtual(file):
    layout = h5py.VirtualLayout((3,), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "w", (3,))
    file.create_virtual_dataset("virtual", layout)


def _link(link):
    return lambda file: file.__setitem__("linked", link)


def _cycle(file):
    file["conv1/back"] = file["/"]


def _twice(file):
    file["again"] = file["conv1/conv1/kernel:0"]


def _deep(file):
    file["/".join("abcdefghijklmnopqrst")] = KERNEL


def _dataset(name, **kwargs):
    return lambda file: file.create_dataset(name, **kwargs)


REFUSED = {
    "soft link": (_link(h5py.SoftLink("/conv1")), "a soft link at 'linked'"),
    "soft link to itself": (_link(h5py.SoftLink("/linked")), "a soft link at 'linked'"),
    "external link": (_link(h5py.ExternalLink("/etc/other.h5", "/w")), "a link into another file at 'linked'"),
    "cycle of groups": (_cycle, "'conv1/back' under a second path"),
    "dataset linked twice": (_twice, "under a second path"),
    "deep groups": (_deep, "nests groups deeper than 16"),
    "external storage": (_external_storage, "'away' stored in another file"),
    "virtual": (_virtual, "'virtual' stored in another file"),
    "never written": (_late, r"declares 'late' as \[1099511627776\] float32, of which it holds 0 bytes"),
    "partly written": (_partly, r"declares 'partly' as \[1048576, 1048576\] float32, of which it holds 16,384 bytes"),
    "compressed": (_dataset("c", data=np.zeros((64, 64)), compression="gzip"), "'c' compressed or filtered"),
    "shuffled": (_dataset("c", data=np.zeros((64, 64)), shuffle=True), "'c' compressed or filtered"),
    "checksums": (_dataset("c", data=np.zeros((64, 64)), fletcher32=True), "'c' compressed or filtered"),
    "object references": (_dataset("r", shape=(2,), dtype=h5py.ref_dtype), "references in 'r'"),
    "region references": (_dataset("r", shape=(2,), dtype=h5py.regionref_dtype), "references in 'r'"),
    "strings": (_dataset("s", data=np.array([b"ab", b"c"])), "strings in 's'"),
    "long strings": (_dataset("s", data=["ab", "c"]), "strings in 's'"),
    "sequences": (_dataset("v", shape=(2,), dtype=h5py.vlen_dtype(np.float32)), "sequences in 'v'"),
    "records": (_dataset("c", data=np.zeros(2, "f4,f4")), "records in 'c'"),
    "complex": (_dataset("c", data=np.zeros(2, np.complex64)), "records in 'c'|no numbers in 'c'"),
    "flags": (_dataset("b", data=np.array([True])), "enumerated values in 'b'"),
    "arrays": (_dataset("a", shape=(2,), dtype=np.dtype("(2,)f4")), "no numbers in 'a'"),
    "opaque": (_dataset("o", data=np.zeros(2, "V4")), "no numbers in 'o'"),
    "nothing": (_dataset("e", data=h5py.Empty("f4")), "'e' without values"),
    "a type": (lambda file: file.__setitem__("t", np.dtype("f4")), "'t', which is neither a group nor a dataset"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_dense_array_of_the_file_is_refused(tmp_path, case):
    fill, message = REFUSED[case]
    with pytest.raises(RefusedError, match=message):
        read_hdf5(write(tmp_path / "x.h5", fill))


def test_too_many_items_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("maskrcnn.weights.hdf5.MAX_LINKS", 3)
    with pytest.raises(RefusedError, match="more than 3 items"):
        read_hdf5(write(tmp_path / "x.h5", lambda file: [file.create_group(name) for name in "abc"]))


def test_names_of_megabytes_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "x.h5", lambda file: file.create_group("n" * 60_000))
    with pytest.raises(RefusedError, match="has an item with a name of 60,000 characters"):
        read_hdf5(path)
    monkeypatch.setattr("maskrcnn.weights.hdf5.MAX_NAMES", 50_000)
    with pytest.raises(RefusedError, match="has a group with more than 50,000 bytes of names"):
        read_hdf5(path)


def test_every_cut_is_refused(tmp_path):
    path = write(tmp_path / "x.h5", lambda file: None)
    data = path.read_bytes()
    for end in range(0, len(data), 97):
        path.write_bytes(data[:end])
        with pytest.raises(RefusedError, match="is damaged or cut short"):
            read_hdf5(path)


def test_random_damage_is_refused_or_harmless(tmp_path):
    path = write(tmp_path / "x.h5", lambda file: None)
    data, rng = np.frombuffer(path.read_bytes(), np.uint8), np.random.default_rng(0)
    for _ in range(200):
        damaged = data.copy()
        damaged[rng.integers(8, len(data), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        with contextlib.suppress(RefusedError):
            assert sum(array.nbytes for array in read_hdf5(path).values()) <= len(data)


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "x.h5", lambda file: None)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(CheckpointError, match=r"x\.h5 is an HDF5 file; to read it: pip install 'maskrcnn\[keras\]'"):
        read(path)
