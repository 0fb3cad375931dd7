"""PyTorch's zip archives and older files: tensors come back; archives and sizes that lie are refused."""

import argparse
import io
import struct
import zipfile
from collections import Counter, OrderedDict

import pytest
import torch
from hostile import legacy_around, zip_around
from torch import nn

from maskrcnn.weights.pickles import RefusedError
from maskrcnn.weights.torch_files import read_legacy, read_zip

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8)
READ = {"zip": read_zip, "before 1.6": read_legacy}


def save(path, thing, kind):
    torch.save(thing, path, _use_new_zipfile_serialization=kind == "zip")


@pytest.mark.parametrize("kind", READ)
def test_a_training_script_s_file_comes_back(tmp_path, kind):
    base = torch.arange(24.0).reshape(4, 6)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.zeros(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    thing = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1, names=["a"], device=torch.device("cpu"), dtype=torch.float32),
        "milestones": Counter([3, 5]),
        "parameter": nn.Parameter(torch.ones(2)),
        "shape": torch.Size([2, 3]),
        "bytes": b"abc",
        "row": base[1],
        "transposed": base.t(),
        "dtypes": {str(dtype): torch.ones(3, dtype=dtype) for dtype in DTYPES},
    }
    save(tmp_path / "x.pth", thing, kind)
    found = READ[kind](tmp_path / "x.pth")
    assert isinstance(found["model"], OrderedDict)
    torch.testing.assert_close(found["model"], model.state_dict())
    torch.testing.assert_close(found["transposed"], base.t())
    torch.testing.assert_close(found["row"], base[1])
    assert {str(t.dtype) for t in found["dtypes"].values()} == set(found["dtypes"])


def test_a_zip_is_mapped_not_copied_and_writing_leaves_it_alone(tmp_path):
    save(tmp_path / "x.pth", {"a": torch.zeros(1000)}, "zip")
    before = (tmp_path / "x.pth").read_bytes()
    read_zip(tmp_path / "x.pth")["a"].fill_(1)
    assert (tmp_path / "x.pth").read_bytes() == before


@pytest.mark.parametrize("kind", READ)
def test_the_name_does_not_matter(tmp_path, kind):
    save(tmp_path / "x.safetensors", {"a": torch.ones(2)}, kind)
    assert READ[kind](tmp_path / "x.safetensors")["a"].tolist() == [1, 1]


@pytest.mark.parametrize("kind", READ)
def test_every_cut_is_refused(tmp_path, kind):
    save(tmp_path / "x.pth", {"a": torch.zeros(5)}, kind)
    data = (tmp_path / "x.pth").read_bytes()
    for end in range(0, len(data), 7):
        (tmp_path / "x.pth").write_bytes(data[:end])
        with pytest.raises(RefusedError, match="is damaged or cut short|more bytes than the file has"):
            READ[kind](tmp_path / "x.pth")


def compressed(data):
    return zip_around(data, compression=zipfile.ZIP_DEFLATED)


def overlapping(data):
    """Two entries of the directory that lead to the same 10 kB."""
    whole = bytearray(zip_around(data, **{"data/0": b"\0" * 10_000, "data/1": b""}))
    first, second = (whole.rfind(b"archive/data/" + n) - 46 for n in (b"0", b"1"))
    whole[second + 16 : second + 28] = whole[first + 16 : first + 28]
    whole[second + 42 : second + 46] = whole[first + 42 : first + 46]
    return bytes(whole)


def beyond(data):
    """An entry that claims to be of 2 GB."""
    whole = bytearray(zip_around(data, **{"data/0": b"\0" * 8}))
    entry = whole.rfind(b"archive/data/0") - 46
    whole[entry + 20 : entry + 28] = struct.pack("<II", 2**31 - 1, 2**31 - 1)
    return bytes(whole)


def before(data):
    """An archive that claims to begin 2 GB before the file; the directory is looked for from the end."""
    whole = bytearray(zip_around(data))
    whole[-6:-2] = struct.pack("<I", 2**31 - 1)
    return bytes(whole)


def huge_directory(data):
    whole = bytearray(zip_around(data))
    whole[-10:-6] = struct.pack("<I", 2**31 - 1)
    return bytes(whole)


def hidden(data):
    """Two directories: of these entries, before the end record; of a bomb, where the end record says it is.

    `zipfile` reads the first, and PyTorch the second.
    """
    bomb = compressed(b"\x80\x02" + b"N0" * 100_000 + b"}.")
    end = bomb.rfind(b"PK\5\6")
    size, start = struct.unpack("<II", bomb[end + 12 : end + 20])
    plain = zip_around(data)
    plain_start = plain.find(b"PK\1\2")
    directory = bytearray(plain[plain_start : plain_start + size])
    assert len(directory) == size
    for at in (0, directory.rfind(b"PK\1\2")):
        (offset,) = struct.unpack("<I", directory[at + 42 : at + 46])
        directory[at + 42 : at + 46] = struct.pack("<i", offset + start - plain_start)
    return bomb[:end] + plain[:plain_start] + bytes(directory) + bomb[end:]


def other_place(data):
    """An end record of large archives whose place is told wrongly; PyTorch goes by that, `zipfile` does not."""
    whole = zip_around(data)
    end = whole.rfind(b"PK\5\6")
    size, start = struct.unpack("<II", whole[end + 12 : end + 20])
    wide = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, size, start)
    return whole[:end] + wide + struct.pack("<4sIQI", b"PK\6\7", 0, start, 1) + whole[end:]


def shouted(data):
    """A pickle that PyTorch takes, heeding no case, beside one for whoever heeds it."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, content in {"x/DATA.PKL": b"\x80\x02N.", "y/data.pkl": data, "x/version": b"3\n"}.items():
            archive.writestr(name, content)
    return memory.getvalue()


def script(data):
    return zip_around(data, **{"constants.pkl": b"\x80\x02).", "code/__torch__.py": b"x"})


def other_zip(data):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("weights.pth", data)
    return memory.getvalue()


def keras(data):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("model.weights.h5", data)
    return memory.getvalue()


ARCHIVES = {
    "compressed": (compressed, "compressed entry 'archive/data.pkl'; PyTorch writes none"),
    "bomb": (lambda _: compressed(b"\x80\x02" + b"N" * 10_000_000), "compressed entry"),
    "overlapping": (overlapping, "entries that overlap|is damaged"),
    "beyond": (beyond, "is damaged or cut short"),
    "before": (before, "is damaged or cut short"),
    "huge directory": (huge_directory, "directory of 2,147,483,647 bytes"),
    "hidden": (hidden, "is damaged or cut short"),
    "end record in another place": (other_place, "is damaged or cut short"),
    "comment": (lambda data: zip_around(data)[:-2] + b"\x01\x00x", "is damaged or cut short"),
    "capitals": (shouted, "without a checkpoint's data.pkl"),
    "two folders": (
        lambda data: zip_around(data).replace(b"archive/version", b"brchive/version"),
        "of several folders",
    ),
    "TorchScript": (script, "is a TorchScript archive, a program"),
    "another zip": (other_zip, "without a checkpoint's data.pkl; if weights are packed in it, unpack it"),
    "Keras": (keras, "is a Keras archive; unpack it"),
    "two pickles": (lambda data: zip_around(data, **{"DATA.PKL": b"\x80\x02N."}), "two entries of one name"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives_that_are_no_torch_files_are_refused(tmp_path, case):
    make, message = ARCHIVES[case]
    (tmp_path / "x.pth").write_bytes(make(b"\x80\x02}."))
    with pytest.raises(RefusedError, match=message):
        read_zip(tmp_path / "x.pth")


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value


def storage(elements=b"K\x04", key=b"0", kind=b"FloatStorage", view=b""):
    return b"(" + text(b"storage") + b"ctorch\n" + kind + b"\n" + text(key) + text(b"cpu") + elements + view + b"tQ"


def tensor(made=None, start=b"K\x00", shape=b"K\x04\x85", strides=b"K\x01\x85", hooks=b"ccollections\nOrderedDict\n)R"):
    made = storage() if made is None else made
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + made + start + shape + strides + b"\x89" + hooks + b"tR"


HUGE = b"\x8a\x05\0\0\0\0\x10"
LIES = {
    "huge storage": (tensor(storage(HUGE)), "more bytes than the file has"),
    "negative storage": (tensor(storage(b"J\xff\xff\xff\xff")), "is damaged"),
    "huge shape": (tensor(shape=HUGE + b"\x85"), "more elements than it holds"),
    "expanded": (tensor(shape=HUGE + b"\x85", strides=b"K\x00\x85"), "more elements than it holds"),
    "negative stride": (tensor(strides=b"J\xff\xff\xff\xff\x85"), "is damaged"),
    "starts late": (tensor(start=b"K\x01"), "more elements than it holds"),
    "strides missing": (tensor(strides=b")"), "is damaged"),
    "no storage": (tensor(b"N"), "is damaged"),
    "no kind of storage": (tensor(storage(kind=b"float32")), "is damaged"),
    "untyped storage": (tensor(storage(kind=b"UntypedStorage")), "holds torch.UntypedStorage"),
    "a storage of two sizes": (tensor() + b"0" + tensor(storage(b"K\x05")), "declares a storage twice"),
    "part beyond": (tensor(storage(view=b"(" + text(b"v") + b"K\x02K\x04t")), "is damaged"),
    "values that mean others": (
        tensor(hooks=b"ccollections\nOrderedDict\n)R}" + text(b"neg") + b"\x88s"),
        "is damaged",
    ),
    "many dimensions": (tensor(shape=b"(" + b"K\x01" * 65 + b"t", strides=b"(" + b"K\x01" * 65 + b"t"), "is damaged"),
    "no storage by its name": (tensor(storage().replace(b"storage", b"module!")), "is damaged"),
    "storage of many parts": (tensor(storage(view=b"NN")), "is damaged"),
    "hooks": (tensor(hooks=b"}K\x00ctorch\ndevice\ns"), "is damaged"),
    "huge bytearray": (b"c__builtin__\nbytearray\n" + HUGE + b"\x85R", "holds __builtin__.bytearray"),
    "uninitialised tensor": (b"ctorch\nTensor\n" + HUGE + b"\x85R", "holds torch.Tensor"),
    "tensor without memory": (
        b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n)R",
        "holds torch._utils._rebuild_meta",
    ),
    "NumPy's numbers": (
        b"cnumpy.core.multiarray\nscalar\n)R",
        "holds numpy.core.multiarray.scalar, which is no tensor",
    ),
}


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("case", LIES)
def test_pickles_that_lie_are_refused(tmp_path, case, kind):
    data, message = LIES[case]
    data = b"\x80\x02}" + text(b"w") + data + b"s."
    whole = zip_around(data, **{"data/0": b"\0" * 16}) if kind == "zip" else legacy_around(data)
    (tmp_path / "x.pth").write_bytes(whole)
    with pytest.raises(RefusedError, match=message):
        READ[kind](tmp_path / "x.pth")


def test_the_pickles_that_lie_differ_from_a_good_one_in_that_alone(tmp_path):
    data = zip_around(b"\x80\x02}" + text(b"w") + tensor() + b"s.", **{"data/0": b"\0" * 16, "byteorder": b"little"})
    (tmp_path / "x.pth").write_bytes(data)
    assert read_zip(tmp_path / "x.pth")["w"].tolist() == [0, 0, 0, 0]


def test_a_shorter_record_than_its_storage_is_refused(tmp_path):
    data = zip_around(
        b"\x80\x02}" + text(b"w") + tensor(storage(b"K\x7f"), shape=b"K\x7f\x85") + b"s.", **{"data/0": b""}
    )
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(RefusedError, match="is damaged or cut short|more bytes than"):
        read_zip(tmp_path / "x.pth")


@pytest.mark.parametrize("follow", [b"]", b"](X\1\0\0\0" + b"1e", b"K\1"], ids=["none", "another", "no list"])
def test_storages_that_do_not_follow_are_refused(tmp_path, follow):
    data = b"\x80\x02}" + text(b"w") + tensor() + b"s."
    (tmp_path / "x.pth").write_bytes(legacy_around(data, b"\x80\x02" + follow + b"."))
    with pytest.raises(RefusedError, match="is damaged or cut short"):
        read_legacy(tmp_path / "x.pth")


def test_what_the_user_allows_elsewhere_is_not_admitted_here(tmp_path):
    class Mine:
        pass

    name = f"{Mine.__module__}.{Mine.__qualname__}"
    with torch.serialization.safe_globals([(Mine, name)]):
        data = b"\x80\x02c" + Mine.__module__.encode() + b"\nMine\n)\x81."
        (tmp_path / "x.pth").write_bytes(zip_around(data))
        with pytest.raises(RefusedError, match="Mine, which is no tensor"):
            read_zip(tmp_path / "x.pth")


@pytest.mark.parametrize("allowed", [[], [argparse.Namespace]], ids=["nothing", "the same"])
def test_what_the_user_allows_elsewhere_stays_allowed(tmp_path, allowed):
    save(tmp_path / "x.pth", {"args": argparse.Namespace(), "a": torch.ones(1)}, "zip")
    with torch.serialization.safe_globals(allowed):
        before = set(torch.serialization.get_safe_globals())
        read_zip(tmp_path / "x.pth")
        assert set(torch.serialization.get_safe_globals()) == before
