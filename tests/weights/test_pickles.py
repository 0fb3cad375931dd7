"""The pickle machine: what plain pickles hold comes back; nothing is called, and nothing absurd is allocated."""

import contextlib
import pickle

import pytest
from hostile import AROUND, MALFORMED, RUNS

from maskrcnn.errors import CheckpointError
from maskrcnn.weights.pickles import Machine, RefusedError, Stretch
from maskrcnn.weights.read import read

PLAIN = {
    "": "",
    "text": "ü€😀\n'\"\\",
    "bytes": [b"", b"a\xff", b"x" * 300],
    "numbers": [0, 1, -1, 255, 65536, -(1 << 40), 1 << 70, 1.5, float("inf"), True, False, None],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "nested": {"a": [{"b": ([],)}], 3: {}, (1, "x"): 2},
    "shared": [[1], "again", "again"],
}


def run(tmp_path, data, admitted=None, persistent=None):
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    with path.open("rb") as file:
        return Machine(Stretch(file), admitted or {}, persistent).run()


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_plain_containers_come_back(tmp_path, protocol):
    assert run(tmp_path, pickle.dumps(PLAIN, protocol)) == PLAIN


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_plain_containers_of_old_protocols_come_back(tmp_path, protocol):
    plain = {key: value for key, value in PLAIN.items() if key != "bytes"}  # which these write as a call
    assert run(tmp_path, pickle.dumps(plain, protocol)) == plain


def test_strings_of_python_2_come_back_byte_for_byte(tmp_path):
    assert run(tmp_path, rb"(dp0" b"\nS'a'\nS'\\xff\\n'\ns.") == {"a": "\xff\n"}
    assert run(tmp_path, b"\x80\x02}U\x01aT\x02\x00\x00\x00\xffbs.") == {"a": "\xffb"}


def test_long_strings_are_left_in_the_file(tmp_path):
    found = run(tmp_path, pickle.dumps([b"x" * 5000], 4))
    assert found[0].size == 5000 and not found[0].is_text


def test_a_shared_list_stays_shared(tmp_path):
    inner = [1]
    found = run(tmp_path, pickle.dumps([inner, inner], 2))
    assert found[0] is found[1]


@pytest.mark.parametrize("case", RUNS)
def test_pickle_itself_would_run_them(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(TypeError):  # once it has run
        pickle.loads(RUNS[case])
    assert (tmp_path / "ran.txt").exists()


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("case", RUNS)
def test_no_pickle_runs_anything(case, around, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.bin").write_bytes(AROUND[around](RUNS[case]))
    with pytest.raises(
        CheckpointError, match=r"x\.bin cannot be read as weights: it .*(run code|no need of)"
    ) as caught:
        read(tmp_path / "x.bin")
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("case", MALFORMED)
def test_no_malformed_pickle_gets_through(case, around, tmp_path):
    (tmp_path / "x.bin").write_bytes(AROUND[around](MALFORMED[case]))
    with pytest.raises(CheckpointError, match=r"x\.bin (cannot be read as weights: it|does not hold a mapping)"):
        read(tmp_path / "x.bin")


@pytest.mark.parametrize("around", AROUND)
def test_a_pickle_of_endless_work_is_refused(around, tmp_path, monkeypatch):
    monkeypatch.setattr("maskrcnn.weights.pickles.MAX_OPCODES", 1000)
    (tmp_path / "x.bin").write_bytes(AROUND[around](b"\x80\x02" + b"]" * 1001 + b"."))
    with pytest.raises(CheckpointError, match="it holds more than 1,000 pickle instructions, too many for weights"):
        read(tmp_path / "x.bin")


def test_every_cut_of_a_pickle_is_refused(tmp_path):
    data = pickle.dumps(PLAIN, 2)
    for end in range(1, len(data)):
        with pytest.raises(RefusedError, match="damaged or cut short|holds"):
            run(tmp_path, data[:end])


def test_a_refused_name_is_told_without_control_characters(tmp_path):
    with pytest.raises(RefusedError, match=r"holds \?\[31mos\.sys, which is no tensor"):
        run(tmp_path, b"\x80\x04\x8c\x07\x1b[31mos\x8c\x03sys\x93.")
