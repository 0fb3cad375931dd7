"""Files of weights of all kinds: the same tensors, the same refusals, and memory near the file's size."""

import json
import pickle
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import MALFORMED, in_dict, legacy_around, zip_around
from safetensors.torch import save_file

from maskrcnn.errors import CheckpointError, WeightsWarning
from maskrcnn.weights.read import as_tensors, check_tensors, read

TENSORS = {
    "conv.weight": torch.arange(12.0).reshape(3, 4),
    "conv.bias": torch.ones(3, dtype=torch.float16),
    "bn.num_batches_tracked": torch.tensor(5),
}


def _arrays(tensors):
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _write_hdf5(path, tensors):
    with pytest.importorskip("h5py").File(path, "w") as file:
        for name, tensor in tensors.items():
            file[name] = tensor.numpy()


WRITE = {
    "safetensors": lambda path, tensors: save_file(tensors, path),
    "torch": lambda path, tensors: torch.save(tensors, path),
    "torch before 1.6": lambda path, tensors: torch.save(tensors, path, _use_new_zipfile_serialization=False),
    "pickle": lambda path, tensors: path.write_bytes(pickle.dumps(_arrays(tensors), 2)),
    "hdf5": _write_hdf5,
}


@pytest.mark.parametrize("container", WRITE)
def test_every_container_gives_the_same(tmp_path, container):
    WRITE[container](tmp_path / "x", TENSORS)
    found = read(tmp_path / "x")
    assert found.container == container and found.metadata == {}
    torch.testing.assert_close(found.tensors, TENSORS)
    for tensor in found.tensors.values():
        tensor += 1  # every one can be written to …
    torch.testing.assert_close(read(tmp_path / "x").tensors, TENSORS)  # … which leaves the file alone


@pytest.mark.parametrize("container", WRITE)
def test_values_that_are_not_finite_are_warned_of(tmp_path, container):
    broken = {**TENSORS, "a": torch.tensor([1.0, float("nan")]), "b": torch.tensor([-float("inf"), 0.0])}
    WRITE[container](tmp_path / "x", broken)
    with pytest.warns(WeightsWarning, match=r"x holds NaN or infinity in a, b\."):
        read(tmp_path / "x")


def test_many_broken_tensors_are_counted():
    with pytest.warns(WeightsWarning, match=r"in 0, 1, 2 and 7 more\."):
        check_tensors({str(i): torch.full((2,), float("nan")) for i in range(10)}, "x")


def test_the_largest_finite_numbers_are_no_infinity():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_tensors({str(t): torch.full((9,), torch.finfo(t).max, dtype=t) for t in (torch.half, torch.float)}, "x")


@pytest.mark.parametrize(
    ("tree", "notes"),
    [
        ({"model": TENSORS, "epoch": 3, "lr": 0.5}, {"epoch": "3", "lr": "0.5"}),
        ({"model_ema": {"conv.weight": torch.zeros(1)}, "model": TENSORS}, {}),
        ({"state_dict": TENSORS, "meta": {"CLASSES": ("a",)}}, {}),
        ({"model_state_dict": TENSORS, "optimizer": {"state": {0: {"step": torch.tensor(1)}}}}, {}),
        ({"net": {"module": TENSORS}}, {}),
        ({"module": TENSORS}, {}),
        ({"model": {"model": TENSORS}, "iteration": 9}, {"iteration": "9"}),
        ({"model": {f"module.{k}": t for k, t in TENSORS.items()}}, {}),
        ({**TENSORS, "matching_heuristics": True, "long": "x" * 5000}, {"matching_heuristics": "True"}),
        ({"model": TENSORS, "step": torch.tensor(3)}, {}),
        ({"model": "resnet", **TENSORS}, {"model": "resnet"}),
    ],
    ids=["model", "ema", "state_dict", "model_state_dict", "net", "module", "twice", "prefix", "flat", "step", "text"],
)
def test_usual_wrappings_are_taken_off(tmp_path, tree, notes):
    torch.save(tree, tmp_path / "x.pth")
    found = read(tmp_path / "x.pth")
    torch.testing.assert_close(found.tensors, TENSORS)
    assert found.metadata == notes
    torch.testing.assert_close(as_tensors(tree), TENSORS)


def test_one_tensor_under_many_names_is_refused(tmp_path):
    same = torch.zeros(10_000)
    torch.save({f"w{k}": same for k in range(50)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="claims more than 4 times as many numbers as it has"):
        read(tmp_path / "x.pth")
    torch.save({"a": same, "b": same}, tmp_path / "x.pth")  # a layer that is shared
    assert len(read(tmp_path / "x.pth").tensors) == 2


@pytest.mark.parametrize("prefix", ["_orig_mod.", "model.", "module._orig_mod.", "model.module."])
def test_prefixes_of_wrappers_are_taken_off(prefix):
    assert as_tensors({"state_dict": {f"{prefix}{k}": t for k, t in TENSORS.items()}}).keys() == TENSORS.keys()


def test_averaged_weights_beside_are_told(caplog):
    assert as_tensors({"model": TENSORS, "model_ema": TENSORS, "optimizer": {}}).keys() == TENSORS.keys()
    assert "the averaged weights beside it, under model_ema, are not" in caplog.text


def test_a_prefix_of_some_names_stays():
    names = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert as_tensors(names).keys() == names.keys()


def test_caffe2_and_model_zoo_pickles(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"blobs": _arrays(TENSORS), "cfg": "x: 1\n" * 500}, 2))
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"model": _arrays(TENSORS), "__author__": "someone"}, 2))
    assert read(tmp_path / "a.pkl").metadata == {}
    assert read(tmp_path / "b.pkl").metadata == {"__author__": "someone"}


def test_metadata_of_safetensors_comes_back(tmp_path):
    save_file(TENSORS, tmp_path / "x", metadata={"key": "value"})
    assert read(tmp_path / "x").metadata == {"key": "value"}


def test_arrays_share_memory_where_it_can_be_written_to():
    array, fixed = np.zeros(3, np.float32), np.ones(3, np.float32)
    fixed.flags.writeable = False
    found = as_tensors({"shared": array, "fixed": fixed, "backwards": fixed[::-1], "big": np.ones(2, ">f4")})
    found["shared"][0] = 7
    found["fixed"][0] = 7
    assert array[0] == 7 and fixed[0] == 1
    assert found["big"].tolist() == [1, 1]


def test_parameters_come_back_as_tensors_without_history():
    found = as_tensors({"w": torch.nn.Parameter(torch.ones(2)) * 2})
    assert type(found["w"]) is torch.Tensor and not found["w"].requires_grad


NO_WEIGHTS = {
    "object": (np.array([None, {}]), "'w' is object, which weights cannot be"),
    "strings": (np.array(["a"]), "'w' is <U1, which weights cannot be"),
    "bytes": (np.array([b"a"]), r"'w' is \|S1, which weights cannot be"),
    "dates": (np.array(["2020-01-01"], "M8[D]"), r"'w' is datetime64\[D\], which"),
    "complex array": (np.zeros(2, np.complex64), "'w' is complex64, which weights cannot be"),
    "flags": (np.array([True]), "'w' is bool, which weights cannot be"),
    "complex": (torch.zeros(2, dtype=torch.complex64), "'w' is complex64, which weights cannot be"),
    "eight bits": (torch.zeros(2).to(torch.float8_e4m3fn), "'w' is float8_e4m3fn, which weights cannot be"),
    "empty": (torch.zeros(3, 0), r"'w' is empty, of shape \[3, 0\]"),
    "expanded": (
        torch.zeros(1).expand(10**12),
        r"'w' claims 1,000,000,000,000 elements, of shape \[1000000000000\], but",
    ),
    "broadcast": (np.broadcast_to(np.float32(0), (10**6, 10**6)), "'w' claims 1,000,000,000,000 elements"),
    "sparse": (torch.eye(2).to_sparse(), "'w' is not a dense tensor with values"),
    "no memory": (torch.zeros(2, device="meta"), "'w' is not a dense tensor with values"),
}


@pytest.mark.parametrize("case", NO_WEIGHTS)
def test_tensors_that_cannot_be_weights_are_named(case):
    value, message = NO_WEIGHTS[case]
    with pytest.raises(CheckpointError, match=f"the mapping: {message}"):
        as_tensors({"fine": torch.ones(1), "w": value})


@pytest.mark.parametrize("kind", ["O", "S3", "U4", "c8", "?"])
def test_pickled_arrays_that_cannot_be_weights_are_named(tmp_path, kind):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": {"w": np.zeros(3, kind)}}, 2))
    with pytest.raises(CheckpointError, match=r"x\.pkl: 'w' is .*, which weights cannot be"):
        read(tmp_path / "x.pkl")


@pytest.mark.parametrize("tree", [{}, {"a": 1}, {"model": {}}, {"a": {"w": torch.ones(1)}}, [torch.ones(1)], None])
def test_files_without_named_tensors_are_refused(tmp_path, tree):
    torch.save(tree, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth does not hold a mapping from names to tensors"):
        read(tmp_path / "x.pth")


def test_a_mapping_that_wraps_itself_is_refused():
    tree = {}
    tree["model"] = tree
    with pytest.raises(CheckpointError, match="does not hold a mapping from names to tensors"):
        as_tensors(tree)


def _safetensors(header, data=b"\0" * 8, size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def _entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"w": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


SAFETENSORS = {
    "header of 2 GB": (_safetensors(_entry(), size=2**31), "declares a header of 2,147,483,648 bytes"),
    "header of a terabyte": (_safetensors(_entry(), size=2**40 - 1), "declares a header of 1,099,511,627,775 bytes"),
    "header of all bytes": (_safetensors(_entry(), size=2**64 - 1), "is of no known kind, or damaged"),
    "header of nothing": (_safetensors(_entry(), size=0), "is damaged or cut short"),
    "header longer than the file": (_safetensors(_entry(), size=1000), "is damaged or cut short"),
    "no JSON": (_safetensors(b"{nothing}"), "is damaged or cut short"),
    "nested JSON": (_safetensors(b'{"a":' * 100_000), "is damaged or cut short"),
    "list": (_safetensors(b'{"w":[]}'), "is damaged or cut short"),
    "offsets outside": (_safetensors(_entry(offsets=(0, 1000), shape=(250,))), "is damaged or cut short"),
    "offsets reversed": (_safetensors(_entry(offsets=(8, 0))), "is damaged or cut short"),
    "negative offsets": (_safetensors(_entry(offsets=(-8, 0))), "is damaged or cut short"),
    "shape too large": (_safetensors(_entry(shape=(2**62, 8))), "is damaged or cut short"),
    "negative shape": (_safetensors(_entry(shape=(-2,))), "is damaged or cut short"),
    "control characters": (
        _safetensors({"\x1b[31m": _entry(offsets=(8, 0))["w"]}),
        r"is damaged or cut short: [ -~]*\?\[31m[ -~]*$",
    ),
    "unknown dtype": (_safetensors(_entry(dtype="F31")), "is damaged or cut short"),
    "bytes left over": (_safetensors(_entry(), b"\0" * 16), "is damaged or cut short"),
    "flags": (_safetensors(_entry(dtype="BOOL", shape=(8,))), "'w' is bool, which weights cannot be"),
    "empty": (_safetensors(_entry(shape=(0,), offsets=(0, 0)), b""), "'w' is empty"),
    "no tensors": (_safetensors({}, b""), "does not hold a mapping from names to tensors"),
    "name of a megabyte": (_safetensors({"n" * 10**6: _entry()["w"]}), "has a tensor with a name of 1,000,000 char"),
    "a million axes": (
        _safetensors(_entry(shape=(0,) + (1,) * 10**6, offsets=(0, 0)), b""),
        r"'w' is empty, of shape \[0, 1, 1, 1, 1, 1, 1, 1, 1, 1, …\] with 1,000,001 axes",
    ),
    "metadata of numbers": (_safetensors({"__metadata__": {"a": 1}, **_entry()}), "is damaged or cut short"),
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_damaged_safetensors_are_refused(tmp_path, case):
    data, message = SAFETENSORS[case]
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(tmp_path / "x")
    assert len(str(caught.value)) < 500


def test_every_cut_of_safetensors_is_refused(tmp_path):
    data = _safetensors(_entry())
    for end in range(len(data)):
        (tmp_path / "x").write_bytes(data[:end])
        with pytest.raises(CheckpointError, match="x is|x cannot"):
            read(tmp_path / "x")


CHILD = """
import resource, sys, warnings
from maskrcnn.errors import CheckpointError
from maskrcnn.weights.read import read

def status(field):
    return int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1]) * 1024

try:
    read(sys.argv[1])  # opens what is loaded on first use
except CheckpointError:
    pass
before = status("VmRSS")
limit = status("VmSize") + 256 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[1:]:
    try:
        read(path)
        print("read")
    except CheckpointError as e:
        print(e)
print(status("VmHWM") - before, file=sys.stderr)
"""


def _in_a_child(script, arguments):
    """Return the lines that it printed and by how many bytes its memory grew."""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), int(done.stderr.splitlines()[-1])


linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures with Linux's /proc")


@linux
def test_hostile_files_take_little_memory(tmp_path):
    """All in one child that has 256 MB to spare; each file is of less than a megabyte."""
    files = {f"{name}.pkl": in_dict(data) for name, data in MALFORMED.items()}
    files |= {f"{name}.pth": zip_around(data) for name, data in MALFORMED.items()}
    files |= {f"{name}.old": legacy_around(data) for name, data in MALFORMED.items()}
    files |= {f"{name}.safetensors": data for name, (data, _) in SAFETENSORS.items()}
    files["lists.pkl"] = b"\x80\x02" + b"]" * 900_000 + b"."
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    paths = [str(tmp_path / name) for name in files]
    lines, growth = _in_a_child(CHILD, paths)
    assert len(lines) == len(files)
    for line, path in zip(lines, paths, strict=True):
        assert path in line and "needs more memory" not in line
    assert growth < 128 * 2**20


@linux
@pytest.mark.parametrize("container", WRITE)
def test_reading_takes_little_more_memory_than_the_file(tmp_path, container):
    path = tmp_path / "x"
    WRITE[container](path, {"w": torch.ones(32 * 2**18)})  # one tensor of 32 MB is the worst case
    script = CHILD.replace("sys.argv[1])", "sys.argv[2])").replace("sys.argv[1:]", "sys.argv[1:2]")
    small = tmp_path / "small"
    WRITE[container](small, {"w": torch.ones(1)})
    lines, growth = _in_a_child(script, [str(path), str(small)])
    assert lines == ["read"]
    assert growth < 1.5 * path.stat().st_size
