"""A run that is killed and resumed is the run that was never killed, bit for bit."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import train_child
from safetensors.torch import load_file

from maskrcnn import MaskRCNN
from maskrcnn.errors import CheckpointError, ConfigError, InputError
from maskrcnn.files import replacing
from maskrcnn.training import TrainOptions, train
from tiny import PAPERS, tiny_data, tiny_model

CHILD = Path(train_child.__file__)


def child(folder, *arguments):
    """Run a training process and return its exit status; its output goes to a file beside `folder`."""
    with open(f"{folder}.out", "w") as out:
        command = [sys.executable, CHILD, folder, *arguments]
        return subprocess.run(command, check=False, stdout=out, stderr=out, timeout=120).returncode


def records(folder):
    """Return the lines of the log without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def checkpoint_step(folder):
    with open(folder / "checkpoint.safetensors", "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
    return json.loads(header["__metadata__"]["maskrcnn.training"])["step"]


def assert_same_tensors(actual, expected):
    actual, expected = load_file(actual), load_file(expected)
    assert actual.keys() == expected.keys()
    differ = [name for name in expected if not torch.equal(actual[name], expected[name])]
    assert not differ


def assert_same_run(folder, expected):
    assert records(folder) == records(expected)
    for name in ("model.safetensors", "best.safetensors", "checkpoint.safetensors"):
        assert_same_tensors(folder / name, expected / name)
    assert (folder / "evaluation.json").read_text() == (expected / "evaluation.json").read_text()
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    train_child.run(folder)
    return folder


def test_the_uninterrupted_run_has_every_step_once(uninterrupted):
    steps = [r["step"] for r in records(uninterrupted) if "loss" in r]
    assert steps == list(range(1, train_child.STEPS + 1))
    assert [r["step"] for r in records(uninterrupted) if "evaluation" in r] == [6, 12]


def test_killed_in_the_middle_of_an_epoch(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    assert child(folder, "step", "9") == -signal.SIGKILL
    assert checkpoint_step(folder) == 8
    assert len([r for r in records(folder) if "loss" in r]) == 8
    train_child.run(folder, resume=True)
    assert_same_run(folder, uninterrupted)


def test_killed_while_a_checkpoint_is_written(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    assert child(folder, "checkpoint", "5") == -signal.SIGKILL
    assert checkpoint_step(folder) == 6
    [half] = folder.glob(".maskrcnn-*.tmp/checkpoint.safetensors")
    assert half.stat().st_size > 1000
    assert len([r for r in records(folder) if "loss" in r]) == 8, "steps 7 and 8 are to be done again"
    train_child.run(folder, resume=True)
    assert_same_run(folder, uninterrupted)


def test_killed_and_resumed_with_worker_processes(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    assert child(folder, "step", "6", "--workers", "2") == -signal.SIGKILL
    assert checkpoint_step(folder) == 4
    assert child(folder, "whole", "--workers", "2", "--resume") == 0
    assert_same_run(folder, uninterrupted)


def test_a_model_file_lost_after_the_checkpoint_is_written_again(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    (folder / "model.safetensors").unlink()
    train_child.run(folder, resume=True)
    assert_same_run(folder, uninterrupted)


def test_interrupted_while_the_best_weights_are_written(uninterrupted, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    original, interrupted = MaskRCNN.save, []

    def save(model, path):
        if Path(path).name == "best.safetensors" and not interrupted:
            interrupted.append(path)
            raise KeyboardInterrupt
        original(model, path)

    monkeypatch.setattr(MaskRCNN, "save", save)
    with pytest.raises(KeyboardInterrupt):
        train_child.run(folder)
    assert not (folder / "best.safetensors").exists()
    train_child.run(folder, resume=True)
    assert_same_run(folder, uninterrupted)


def test_events_of_steps_done_twice_are_shown_once(uninterrupted, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    stopping = _StopsAt(tiny_data(6), [7])
    with pytest.raises(RuntimeError, match="unplugged"):
        train(tiny_model(), stopping, folder, train_child.OPTIONS, tiny_data(2, seed=1))
    train_child.run(folder, resume=True)
    assert_same_run(folder, uninterrupted)
    events = EventAccumulator(str(folder / "tensorboard")).Reload().Scalars("loss")
    assert [e.step for e in events] == list(range(1, train_child.STEPS + 1))


class _StopsAt:
    """A data set that fails when item number `at`, counted over all reads, is asked for."""

    def __init__(self, data, at):
        self.data, self.at, self.reads = data, at, 0
        self.class_names, self.image_name = data.class_names, data.image_name

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        self.reads += 1
        if self.reads > 2 * self.at[0]:
            raise RuntimeError("the disk was unplugged")
        return self.data[index]


def options(**changes):
    return TrainOptions(**{**PAPERS, "epochs": 1, "batch_size": 2, "evaluate_every": 0, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of two steps."""
    folder = tmp_path_factory.mktemp("finished")
    train(tiny_model(), tiny_data(4), folder, options())
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 2}, "epochs 1, now 2"),
        ({"batch_size": 4}, "batch_size 2, now 4"),
        ({"batch_size": 4, "epochs": 2}, "epochs 1, now 2, batch_size 2, now 4"),
        ({"optimizer": "adamw"}, 'optimizer "sgd", now "adamw"'),
        ({"seed": 1}, "seed 0, now 1"),
    ],
    ids=["epochs", "batch size", "as many steps", "optimizer", "seed"],
)
def test_resuming_with_other_options_is_refused(finished, changes, said):
    with pytest.raises(ConfigError, match=rf"is from a run with other settings: {said}\. Resume with the same"):
        train(tiny_model(), tiny_data(4), finished, options(**changes), resume=True)


def test_resuming_with_another_network_is_refused(finished):
    with pytest.raises(ConfigError, match=r"other settings: box\.fc_channels 32, now 48\."):
        train(tiny_model(box__fc_channels=48), tiny_data(4), finished, options(), resume=True)


def test_resuming_with_other_data_is_refused(finished):
    with pytest.raises(ConfigError, match=r"a run of 2 steps; with this data it would be 3\."):
        train(tiny_model(), tiny_data(6), finished, options(), resume=True)


def test_workers_and_saving_may_differ(finished):
    before = (finished / "log.jsonl").read_text()
    result = train(tiny_model(), tiny_data(4), finished, options(save_every=1, evaluate_every=1), resume=True)
    assert result.steps == 2
    assert (finished / "log.jsonl").read_text() == before, "a finished run has nothing left to do"


def test_a_folder_with_a_run_is_not_overwritten(finished):
    with pytest.raises(InputError, match=r"already holds a run\. Continue it with --resume, or choose another"):
        train(tiny_model(), tiny_data(4), finished, options())


def test_a_refused_start_leaves_a_run_that_is_under_way_alone(finished):
    with replacing(finished / "checkpoint.safetensors") as new:
        with pytest.raises(InputError, match="already holds a run"):
            train(tiny_model(), tiny_data(4), finished, options())
        new.write_bytes((finished / "checkpoint.safetensors").read_bytes())
    assert checkpoint_step(finished) == 2


@pytest.mark.parametrize("name", ["model.safetensors", "best.safetensors"])
def test_weights_of_an_earlier_run_are_not_overwritten(finished, tmp_path, name):
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(InputError, match="already holds a run"):
        train(tiny_model(), tiny_data(4), tmp_path, options())
    assert (tmp_path / name).read_bytes() == b"old"


def test_a_resumed_run_keeps_no_old_checkpoint_open(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    train(tiny_model(), tiny_data(4), tmp_path / "run", options(), resume=True)
    if Path("/proc/self/maps").exists():
        assert "checkpoint.safetensors" not in Path("/proc/self/maps").read_text()


def test_nothing_to_resume(tmp_path):
    with pytest.raises(InputError, match=r"nothing to resume in .*: it holds no checkpoint\.safetensors"):
        train(tiny_model(), tiny_data(4), tmp_path / "run", options(), resume=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[: len(data) // 2], "damaged or cut short"),
        (lambda data: b"", "not a safetensors file, or it is cut short"),
        (lambda data: b"PK\x03\x04" + data, "not a safetensors file"),
        (lambda data: data[:8] + b"{" * 20 + data[28:], "damaged or cut short"),
    ],
    ids=["half", "empty", "not safetensors", "broken header"],
)
def test_a_damaged_checkpoint_is_named(finished, tmp_path, damage, said):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(damage((finished / "checkpoint.safetensors").read_bytes()))
    with pytest.raises(CheckpointError, match=rf"checkpoint\.safetensors.*{said}"):
        train(tiny_model(), tiny_data(4), tmp_path, options(), resume=True)


def test_weights_are_no_checkpoint(finished, tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes((finished / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="is no training checkpoint; give weights to continue from as --weights"):
        train(tiny_model(), tiny_data(4), tmp_path, options(), resume=True)


@pytest.mark.parametrize("momentum", [0.0, 0.9], ids=["plain", "momentum"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_state_of_every_optimizer_is_resumed(tmp_path, optimizer, momentum):
    chosen = options(optimizer=optimizer, momentum=momentum, epochs=2, learning_rate=0.001)
    train(tiny_model(), tiny_data(4), tmp_path / "whole", chosen)
    with pytest.raises(RuntimeError):
        train(tiny_model(), _StopsAt(tiny_data(4), [3]), tmp_path / "halves", chosen)
    assert checkpoint_step(tmp_path / "halves") == 2
    train(tiny_model(seed=5), tiny_data(4), tmp_path / "halves", chosen, resume=True)
    assert records(tmp_path / "halves") == records(tmp_path / "whole")
    assert_same_tensors(tmp_path / "halves/model.safetensors", tmp_path / "whole/model.safetensors")
