"""Pickled arrays of every protocol and both Pythons; arrays that lie about themselves."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest

from maskrcnn.weights.numpy_pickles import read_arrays
from maskrcnn.weights.pickles import RefusedError

ARRAYS = {
    "large": np.random.default_rng(0).normal(size=(30, 50)).astype(np.float32),
    "fortran": np.asfortranarray(np.arange(600.0).reshape(20, 30)),
    "big-endian": np.arange(5, dtype=">i8"),
    "scalar": np.float32(3),
    "no dimensions": np.array(7),
    "half": np.ones(3, np.float16),
    "flags": np.array([True, False]),
    "none": np.empty((0, 3), np.float32),
    "all bytes": np.arange(2560, dtype=np.int32).astype(np.uint8),
}
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"


def read(tmp_path, data):
    (tmp_path / "x.pkl").write_bytes(data)
    return read_arrays(tmp_path / "x.pkl")


def dtype(code=b"f4", order=b"<", fields=b"NNN"):
    """A dtype as Python 2 pickles it."""
    made = b"cnumpy\ndtype\nU" + bytes([len(code)]) + code + b"K\x00K\x01\x87R"
    return made + b"(K\x03U\x01" + order + fields + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def array(shape=b"K\x02\x85", kind=None, data=b"U\x08" + b"\0" * 8):
    """An array as Python 2 pickles it: bytes are strings there."""
    return RECONSTRUCT + b"(K\x01" + shape + (kind or dtype()) + b"\x89" + data + b"tb"


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("container", [dict, OrderedDict])
def test_arrays_of_every_protocol_come_back(tmp_path, protocol, container):
    found = read(tmp_path, pickle.dumps({"blobs": container(ARRAYS)}, protocol))["blobs"]
    assert found.keys() == ARRAYS.keys()
    for name, expected in ARRAYS.items():
        assert found[name].shape == expected.shape and found[name].dtype == expected.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
        assert found[name].flags.writeable and found[name].flags.aligned


def test_names_of_numpy_1_and_2_are_known(tmp_path):
    new = pickle.dumps(ARRAYS, 2)
    for data in (new.replace(b"numpy._core", b"numpy.core"), new.replace(b"numpy.core", b"numpy._core")):
        np.testing.assert_array_equal(read(tmp_path, data)["large"], ARRAYS["large"])


@pytest.mark.parametrize("count", [1, 60, 1000], ids=["short", "below 256", "long"])
def test_arrays_of_python_2_come_back(tmp_path, count):
    expected = np.linspace(-1, 1, count, dtype=np.float32)
    size = expected.nbytes
    head = b"U" + bytes([size]) if size < 256 else b"T" + size.to_bytes(4, "little")
    data = array(b"M" + count.to_bytes(2, "little") + b"\x85", data=head + expected.tobytes())
    found = read(tmp_path, b"\x80\x02}U\x01wq\x01" + data + b"s.")
    np.testing.assert_array_equal(found["w"], expected)


def test_an_array_under_two_names_stays_one(tmp_path):
    found = read(tmp_path, pickle.dumps([ARRAYS["large"]] * 3, 2))
    assert found[0] is found[1] is found[2]


@pytest.mark.parametrize("kind", ["O", "S3", "U4", "c8", "M8[s]"])
def test_arrays_of_no_numbers_come_back_empty(tmp_path, kind):
    found = read(tmp_path, pickle.dumps({"a": np.zeros(3, kind)}, 2))
    assert found["a"].size == 0 and found["a"].dtype.kind == kind[0]


LIES = {
    "too few bytes": (array(b"K\x03\x85"), "is damaged or cut short"),
    "negative shape": (array(b"J\xff\xff\xff\xff\x85"), "is damaged or cut short"),
    "no integers in the shape": (array(b"G\x40\0\0\0\0\0\0\0\x85"), "is damaged or cut short"),
    "huge shape": (array(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"), "more bytes than the file has"),
    "shape of ten thousand axes": (array(b"(" + b"K\x01" * 10_000 + b"t"), "is damaged or cut short"),
    "huge element": (array(kind=dtype(b"S999999999")), None),
    "dtype of code": (array(kind=dtype(b"O8")), None),
    "records": (array(kind=dtype(b"V8", b"|", b"NU\x01a\x85}")), "holds arrays of records"),
    "no dtype": (array(kind=b"N"), "is damaged or cut short"),
    "dtype by a sentence": (array(kind=dtype(b"f4,f4")), "is damaged or cut short"),
    "state missing": (RECONSTRUCT, "is damaged or cut short"),
    "state too short": (RECONSTRUCT + b"K\x01\x85b", "is damaged or cut short"),
    "objects for data": (array(data=b"]"), "is damaged or cut short"),
    "codec that unpacks": (
        b"c_codecs\nencode\n" + b"X\x03\0\0\0abc" + b"X\x03\0\0\0zip\x86R",
        "is damaged or cut short",
    ),
    "bytes of a size": (b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R", "is damaged or cut short"),
}


@pytest.mark.parametrize("case", LIES)
def test_arrays_that_lie_are_refused(tmp_path, case):
    data, message = LIES[case]
    data = b"\x80\x02}U\x01w" + data + b"s."
    if message is None:
        assert read(tmp_path, data)["w"].size == 0
        return
    with pytest.raises(RefusedError, match=message):
        read(tmp_path, data)


def test_text_that_is_no_bytes_is_refused(tmp_path):
    data = pickle.dumps({"a": np.zeros(2000, np.uint8)}, 2)
    assert data.count(b"\0" * 2000) == 1
    for wrong in ("é" * 500 + "x" * 1000, "ā" * 1000, "x" * 2001):
        text = wrong.encode()
        changed = data.replace((2000).to_bytes(4, "little") + b"\0" * 2000, len(text).to_bytes(4, "little") + text)
        with pytest.raises(RefusedError, match="is damaged or cut short"):
            read(tmp_path, changed)


def test_many_arrays_from_the_same_bytes_are_refused(tmp_path):
    """A file of 100 kB that would fill 10 MB."""
    data = b"\x80\x04\x8e" + (100_000).to_bytes(8, "little") + b"x" * 100_000 + b"\x940]"
    one = array(b"J" + (100_000).to_bytes(4, "little") + b"\x85", dtype(b"u1"), data=b"h\x00")
    with pytest.raises(RefusedError, match="more bytes than the file has"):
        read(tmp_path, data + (one + b"a") * 100 + b".")
