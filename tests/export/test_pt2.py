"""Programs of torch.export: what is in the file, what it finds, and that a file from a stranger runs nothing."""

import io
import json
import re
import struct
import zipfile

import pytest
import torch

from maskrcnn.errors import CheckpointError, InputError
from maskrcnn.export import pt2
from maskrcnn.export.check import compare
from maskrcnn.export.graph import choose_sizes
from maskrcnn.export.pt2 import check_compiler, compiled_path, write_compiled, write_program
from maskrcnn.export.pt2_check import checked_copy
from maskrcnn.export.pt2_model import load_pt2
from tiny import tiny_data, tiny_model

pytestmark = [pytest.mark.compiled, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def model():
    return tiny_model().eval()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """A program for any number of images of any size."""
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    write_program(model, path, choose_sizes(model.config, 1, (96, 96), "both"))
    return path


@pytest.fixture
def rewritten(exported, tmp_path):
    """Writes the file anew with parts changed; None takes one out."""

    def write(**changes):
        path = tmp_path / "model.pt2"
        with zipfile.ZipFile(exported) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
            root = old.namelist()[0].split("/")[0]
            changed = {f"{root}/{part}": change for part, change in changes.items()}
            for name in [*old.namelist(), *(n for n in changed if n not in old.namelist())]:
                change = changed.get(name, lambda data: data)
                if change is not None:
                    new.writestr(name, change(old.read(name) if name in old.namelist() else b""))
        return path

    return write


def of_json(change):
    """A change of a part that is JSON."""

    def changed(data):
        values = json.loads(data)
        change(values)
        return json.dumps(values).encode()

    return changed


def test_a_program_finds_what_the_network_finds_in_images_of_any_size(model, exported):
    loaded = load_pt2(exported)
    photos = [tiny_data(1)[0][0], torch.rand(3, 90, 40), torch.rand(3, 30, 120)]
    found = compare(model, loaded, photos)
    assert found.detections > 10 and found.holds


def test_a_program_takes_several_images_at_once(model, exported):
    photos = [image for image, _ in tiny_data(3)]
    one, three = (load_pt2(exported).predict(photos, 0.0, batch_size=b) for b in (1, 3))
    for a, b in zip(one, three, strict=True):
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "overrides",
    [
        {"image__padding_place": "center", "image__padding": "square", "image__max_size": 96},
        {"masks": False},
        {"keypoint_names": ("a", "b"), "keypoint__channels": 8},
    ],
    ids=["centred", "boxes", "keypoints"],
)
def test_programs_of_one_size_hold_every_kind_of_network(overrides, tmp_path):
    model = tiny_model(**overrides).eval()
    write_program(model, tmp_path / "m.pt2", choose_sizes(model.config, 2, (96, 96), "none"))
    assert compare(model, load_pt2(tmp_path / "m.pt2"), [torch.rand(3, 60, 80)]).holds


def test_bins_of_any_size_go_with_images_of_any_size(tmp_path):
    model = tiny_model(roi_align__sampling_ratio=0).eval()
    write_program(model, tmp_path / "m.pt2", choose_sizes(model.config, 1, (96, 96), "size"))
    photos = [torch.rand(3, 30, 120), torch.rand(3, 120, 30)]
    assert compare(model, load_pt2(tmp_path / "m.pt2"), photos).holds


def test_bfloat16_takes_and_gives_float32(model, tmp_path, exported):
    write_program(model, tmp_path / "m.pt2", choose_sizes(model.config, 1, (96, 96), "none"), "bfloat16")
    batch = load_pt2(tmp_path / "m.pt2").prepare([torch.rand(3, 60, 80)])
    found = load_pt2(tmp_path / "m.pt2").detect(batch)
    assert found.boxes.dtype == found.mask_logits.dtype == torch.float32
    assert (tmp_path / "m.pt2").stat().st_size < 0.75 * exported.stat().st_size


def test_a_program_runs_where_there_is_torch_alone(model, exported):
    batch = torch.randn(1, 3, 96, 128)
    sizes = torch.tensor([[96, 128]])
    told = {"maskrcnn.json": ""}
    with torch.inference_mode():
        found = torch.export.load(exported, extra_files=told).module()(batch, sizes)
        assert list(found) == json.loads(told["maskrcnn.json"])["outputs"]
        torch.testing.assert_close(found["boxes"], model(batch).boxes, rtol=1e-4, atol=1e-3)


def test_the_file_tells_nothing_of_the_machine_that_made_it(exported):
    with zipfile.ZipFile(exported) as archive:
        text = b"".join(archive.read(name) for name in archive.namelist() if name.endswith((".json", ".pt")))
    assert b".py" not in text and b"/home" not in text


def test_example_inputs_take_no_room(exported):
    with zipfile.ZipFile(exported) as archive:
        [size] = [i.file_size for i in archive.infolist() if i.filename.endswith("sample_inputs/model.pt")]
    assert size < 5000


def test_what_is_no_good_leaves_what_was_there(model, tmp_path):
    (tmp_path / "m.pt2").write_text("before")

    def refuse(path):
        raise InputError("no")

    with pytest.raises(InputError):
        write_program(model, tmp_path / "m.pt2", choose_sizes(model.config, 1, (96, 96), "none"), check=refuse)
    assert (tmp_path / "m.pt2").read_text() == "before"


# Files that are damaged, another program's, or a stranger's


class Runs:
    """Unpickling this would print."""

    def __reduce__(self):
        return print, ("a stranger's code ran",)


def pickled(data):
    stream = io.BytesIO()
    torch.save((Runs(),), stream)
    return stream.getvalue()


def first_weight(key, value):
    def change(values):
        next(iter(values["config"].values()))[key] = value

    return of_json(change)


def node(**fields):
    return of_json(lambda v: v["graph_module"]["graph"]["nodes"][3].update(fields))


def size(expression):
    def change(values):
        tensors = values["graph_module"]["graph"]["tensor_values"]
        tensor = next(t for t in tensors.values() if "as_expr" in t["sizes"][0])
        tensor["sizes"][0]["as_expr"]["expr_str"] = expression

    return of_json(change)


def tree(name):
    return spec(lambda text: text.replace("builtins.tuple", name))


def spec(change):
    def changed(values):
        signature = values["graph_module"]["module_call_graph"][0]["signature"]
        signature["in_spec"] = change(signature["in_spec"])

    return of_json(changed)


def branch(**fields):
    """A structure of inputs with a branch of one's own."""
    return spec(lambda text: json.dumps([1, {"type": "builtins.dict", "context": "[]", "children_spec": [], **fields}]))


def guard(text):
    return of_json(lambda v: v["guards_code"].append(text))


ENUM = json.dumps({"__enum__": True, "fqn": "ctypes:cdll", "name": "./stranger.so"})


GRAPH, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
EVIL = "__import__('os').system('echo a stranger ran this')"


@pytest.mark.parametrize(
    ("part", "change", "told"),
    [
        ("data/sample_inputs/model.pt", pickled, "example inputs that are not tensors"),
        (WEIGHTS, first_weight("use_pickle", True), "the weight 'model.*' as an object"),
        (WEIGHTS, first_weight("path_name", "custom_obj_0"), "the weight 'model.*' as an object"),
        ("data/weights/model.pt", pickled, "the part 'data/weights/model.pt'"),
        ("data/constants/custom_obj_0", pickled, "the part 'data/constants/custom_obj_0'"),
        (GRAPH, node(target="torch.os.system"), "target 'torch.os.system'"),
        (GRAPH, node(target="torch.ops.aten.from_file.default"), "target 'torch.ops.aten.from_file.default'"),
        (GRAPH, node(target="torch.ops.aten.__class__.default"), "target 'torch.ops.aten.__class__"),
        (GRAPH, node(name="a): print(1)\n#"), "name 'a"),
        (GRAPH, node(metadata={"custom": "{}"}), "metadata.custom '{}'"),
        (GRAPH, size(EVIL), "expr_str .__import__"),
        (GRAPH, size("Symbol('s1').__class__"), "expr_str .Symbol"),
        (GRAPH, size("9**9**9**9"), "expr_str '9"),
        (
            GRAPH,
            of_json(lambda v: v["range_constraints"].update({EVIL: {"min_val": 1, "max_val": 2}})),
            "the size .__i",
        ),
        (GRAPH, size("Pow(Integer(9), Pow(Integer(9), Integer(9)))"), "expr_str 'Pow"),
        (GRAPH, size("Mul([Integer(0)], 99999999999)"), "expr_str 'Mul"),
        (GRAPH, guard(EVIL), "guards_code .__import__"),
        (GRAPH, guard("L['images'].size() * 99999999999"), "guards_code "),
        (GRAPH, guard("L['images'].tolist()[0] == 0"), "guards_code "),
        (GRAPH, tree("collections.namedtuple"), "in_spec "),
        (
            GRAPH,
            spec(lambda text: text.replace('"type"', r'"\u0074ype"').replace("builtins.tuple", "os.x")),
            "in_spec ",
        ),
        (GRAPH, branch(context=ENUM), "in_spec "),
        (GRAPH, branch(context=[ENUM]), "in_spec "),
        (GRAPH, branch(context="[{}]"), "in_spec "),
        (GRAPH, of_json(lambda v: v.update(unknown="text")), "unknown 'text'"),
    ],
    ids=[
        *("inputs", "pickled weight", "object as weight", "old weights", "object", "function", "operator", "attribute"),
        *("name", "metadata", "size", "attribute of a size", "endless size", "range", "tower of powers", "list"),
        *("guard", "endless guard", "method in a guard", "tree", "escaped tree", "object in a tree", "nested object"),
        *("keys that are objects", "unknown key"),
    ],
)
def test_a_program_with_more_than_a_network_in_it_is_refused(rewritten, capfd, part, change, told):
    with pytest.raises(
        CheckpointError, match=r"is not loaded, since it holds .*, which maskrcnn export does not wr"
    ) as e:
        load_pt2(rewritten(**{part: change}))
    assert re.search(told, str(e.value)) and "\n" not in str(e.value)
    assert "stranger" not in capfd.readouterr().out


def two_in_one(first, second):
    """An archive that torch's reader takes for the first of two, and Python's for the second.

    Both have as many entries and directories of one length. The end says where the first directory is; Python takes
    the one that stands before the end, and moves all places by the difference.
    """

    def parts(data):
        end = data.rindex(b"PK\5\6")
        count, length, start = struct.unpack("<HII", data[end + 10 : end + 20])
        return count, data[:start], data[start : start + length]

    (count, files, directory), (others, other_files, other) = parts(first), parts(second)
    assert count == others and len(directory) >= len(other)
    last, spare = other.rindex(b"PK\1\2"), len(directory) - len(other)
    other = bytearray(other[: last + 32] + struct.pack("<H", spare) + other[last + 34 :] + b"c" * spare)
    base = len(files) + len(directory)
    moved = base + len(other_files) - len(files)
    place = other.find(b"PK\1\2")
    while place >= 0:
        at = struct.unpack("<I", other[place + 42 : place + 46])[0]
        other[place + 42 : place + 46] = struct.pack("<I", base + at - moved)
        place = other.find(b"PK\1\2", place + 46)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(directory), len(files), 0)
    return files + directory + other_files + bytes(other) + end


def archive(parts):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, data in parts.items():
            file.writestr(name, data)
    return stream.getvalue()


def test_torch_is_given_nothing_that_another_reader_finds_in_a_file(exported, tmp_path, capfd):
    """The older format, to which torch falls back where a program does not load, unpickles its weights."""
    with zipfile.ZipFile(exported) as file:
        shown = {info.filename: file.read(info) for info in file.infolist()}
    weights = next(name for name in shown if name.endswith(WEIGHTS))
    config = json.loads(shown[weights])
    for entry in config["config"].values():
        entry["tensor_meta"]["storage_offset"] = {"as_int": 10**6}  # so that it does not load
    shown[weights] = json.dumps(config).encode()
    root = weights.partition("/")[0]
    version = ".".join(str(v) for v in json.loads(shown[f"{root}/{GRAPH}"])["schema_version"].values())
    hidden = {"version": version.encode(), "serialized_exported_program.json": shown[f"{root}/{GRAPH}"]}
    hidden |= {f"serialized_{part}.pt": pickled(b"") for part in ("state_dict", "constants", "example_inputs")}
    hidden["x/extra/maskrcnn.json"] = shown[f"{root}/extra/maskrcnn.json"]
    hidden |= {f"extra_files/{k}": b"" for k in range(len(shown) - len(hidden))}
    path = tmp_path / "two.pt2"
    path.write_bytes(two_in_one(archive(shown), archive(hidden)))
    with pytest.raises(CheckpointError, match="since it holds packed parts, or more than fits in it"):
        load_pt2(path)
    assert "stranger" not in capfd.readouterr().out


def test_a_packed_part_is_refused_before_it_is_unpacked(exported, tmp_path):
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(exported) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match="since it holds packed parts"):
        load_pt2(path)


def test_a_trusted_program_is_loaded_as_it_is(rewritten):
    path = rewritten(**{GRAPH: node(metadata={"custom": "{}"})})
    assert load_pt2(path, trust=True).sizes.any_size


def test_native_code_beside_a_program_makes_it_a_compiled_file(rewritten):
    path = rewritten(**{"data/aotinductor/model/x.so": lambda data: b"native"})
    with pytest.raises(InputError, match=r"is compiled: loading it runs native code .* give --trust \(trust=True\)"):
        load_pt2(path)
    with open(path, "rb") as file, pytest.raises(CheckpointError, match="data/aotinductor/model/x.so"):
        checked_copy(file)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no .pt2 file, or only a part of one"),
        (b"something else", "is no .pt2 file, or only a part of one"),
        ("half", "is no .pt2 file, or only a part of one"),
        ("bytes", "is no .pt2 file, or a damaged one|is damaged|cannot be loaded"),
        ("torch.save", "was not written by maskrcnn export --format pt2"),
        ("another", "was not written by maskrcnn export --format pt2"),
    ],
    ids=["empty", "text", "truncated", "zeros within", "torch.save", "another program"],
)
def test_other_files_are_told_in_a_sentence(exported, tmp_path, content, told):
    path = tmp_path / "m.pt2"
    whole = exported.read_bytes()
    if content == "half":
        path.write_bytes(whole[: len(whole) // 2])
    elif content == "bytes":
        place = whole.index(b"models/model.json") + 100
        path.write_bytes(whole[:place] + bytes(2000) + whole[place + 2000 :])
    elif content == "torch.save":
        torch.save({"a": torch.zeros(2)}, path)
    elif content == "another":
        torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.zeros(2),)), path)
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=told) as e:
        load_pt2(path)
    assert str(e.value).startswith(str(path)) and "\n" not in str(e.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"Cannot read .*m\.pt2: No such file"):
        load_pt2(tmp_path / "m.pt2")


def test_another_version_of_torch_is_told(rewritten):
    path = rewritten(**{GRAPH: of_json(lambda v: v.update(schema_version={"major": 99, "minor": 0}))})
    with pytest.raises(
        CheckpointError, match=r"cannot be loaded by PyTorch .* It was written by PyTorch .*; export it"
    ):
        load_pt2(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (of_json(lambda v: v["configuration"].update(class_names=[])), "another version of maskrcnn: .*class_names"),
        (of_json(lambda v: v.update(device="banana")), "another version of maskrcnn: there is no device 'banana'"),
        (of_json(lambda v: v["sizes"].update(batch=float("inf"))), "another version of maskrcnn: batch cannot be inf"),
        (of_json(lambda v: v["sizes"].update(batch=0)), "another version of maskrcnn: batch cannot be 0"),
        (of_json(lambda v: v["sizes"].update(dynamic="all")), "another version of maskrcnn: dynamic cannot be 'all'"),
        (lambda data: b"[" * 100_000, "what it tells of itself cannot be read"),
        (lambda data: b" " * (2 << 20) + data, "extra/maskrcnn.json is too large"),
    ],
    ids=["configuration", "device", "infinite batch", "no batch", "dynamic", "nested", "too large"],
)
def test_what_a_file_tells_of_itself_is_checked(rewritten, change, told):
    with pytest.raises(CheckpointError, match=told):
        load_pt2(rewritten(**{"extra/maskrcnn.json": change}))


# Compiling, without a compiler


def compiled(rewritten, **about):
    return rewritten(
        **{
            "data/aotinductor/model/x.so": lambda data: b"native",
            "extra/maskrcnn.json": of_json(lambda v: v.update(about)),
        }
    )


def test_a_file_for_another_machine_is_refused_before_it_runs(rewritten, monkeypatch):
    path = compiled(rewritten, processor="AVX512")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with pytest.raises(InputError, match="is compiled for a processor with AVX512; this one has AVX2"):
        load_pt2(path, trust=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_file_for_a_gpu_is_refused_without_one(rewritten):
    cuda = of_json(lambda v: v.update(device="cuda"))
    for path in (compiled(rewritten, device="cuda"), rewritten(**{"extra/maskrcnn.json": cuda})):
        with pytest.raises(InputError, match="is for a CUDA GPU, and there is none here"):
            load_pt2(path, trust=True)


def test_code_that_does_not_load_is_told_with_the_version_it_fits(rewritten):
    with pytest.raises(CheckpointError, match=r"It was compiled with PyTorch .*, and fits that version"):
        load_pt2(compiled(rewritten), trust=True)


def test_no_compiler_is_told_before_the_work(monkeypatch):
    monkeypatch.setattr(pt2, "compiler_missing", lambda: "There is no C++ compiler g++. Install one.")
    with pytest.raises(
        InputError, match=r"There is no C\+\+ compiler g\+\+\. Install one\. The program alone .*--no-com"
    ):
        check_compiler("cpu")


def test_a_compiler_that_fails_is_quoted_in_a_line(model, tmp_path, monkeypatch):
    def fails(*args, **options):
        raise RuntimeError("C++ compile error\nCommand: …\nfatal error: omp.h: No such file")

    monkeypatch.setattr(pt2, "check_compiler", lambda device: None)
    monkeypatch.setattr(torch._inductor, "aot_compile", fails)
    sizes = choose_sizes(model.config, 1, (96, 96), "none")
    program = pt2.trace(model, sizes)
    with pytest.raises(InputError, match=r"Compiling for cpu failed: C\+\+ compile error\. The program alone"):
        write_compiled(program, model, tmp_path / "m.cpu.pt2", sizes)
    assert not list(tmp_path.iterdir())


def test_the_compiled_file_is_named_after_the_device(tmp_path):
    assert compiled_path(tmp_path / "a.pt2", "cuda:1").name == "a.cuda.pt2"
