"""What a training run does, and what it says when it cannot."""

import errno
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

import maskrcnn
from maskrcnn import MaskRCNN
from maskrcnn.data import ShapesDataset
from maskrcnn.errors import (
    ConfigError,
    DatasetError,
    InputError,
    NonFiniteLossError,
    WriteError,
)
from maskrcnn.evaluation import evaluate
from maskrcnn.progress import Reporter
from maskrcnn.training import TrainOptions, train
from maskrcnn.training.loader import Order
from maskrcnn.training.loop import _optimizer
from maskrcnn.weights import files
from tiny import PAPERS, SIDE, tiny_data, tiny_model

LOSSES = ("rpn_objectness", "rpn_box", "class", "box", "mask")


def options(**changes):
    return TrainOptions(**{**PAPERS, "epochs": 1, "batch_size": 2, "evaluate_every": 0, "warmup_steps": 0, **changes})


def records(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses(folder):
    return [r["loss"] for r in records(folder) if "loss" in r]


def told(width=500):
    """Return a reporter and a function that gives what it was told."""
    written = io.StringIO()
    return Reporter(Console(file=written, width=width)), written.getvalue


class Data:
    """A data set of given items, named like photographs."""

    class_names = ShapesDataset.class_names

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]

    def image_name(self, index):
        return f"photos/{index}.jpg"


def empty_item():
    return np.full((SIDE, SIDE, 3), 90, np.uint8), {"boxes": [], "labels": []}


class Dying(Data):
    """A data set that kills the process that reads it."""

    def __getitem__(self, index):
        assert torch.utils.data.get_worker_info() is not None
        os.kill(os.getpid(), signal.SIGKILL)


class Faulty(Data):
    """A data set with a bug."""

    def __getitem__(self, index):
        raise RuntimeError("the shelf is empty")


class TestLearning:
    def test_two_images_are_learnt_by_heart(self, tmp_path):
        data = tiny_data(2)
        more_masks = {"box__matching__samples_per_image": 32, "box__matching__positive_fraction": 0.5}
        model = tiny_model(fpn__channels=32, mask__channels=32, box__fc_channels=128, **more_masks)
        how = options(
            optimizer="adamw", learning_rate=4e-3, schedule="cosine", warmup_steps=10, flip=0.0, clip_norm=5.0
        )
        train(model, Data([data[i % 2] for i in range(320)]), tmp_path, how)
        course = losses(tmp_path)
        assert sum(course[-5:]) < 0.15 * sum(course[:5])
        figures = evaluate(model, data)
        assert figures.box["AP"] > 0.9
        assert figures.mask["AP"] > 0.9
        again = maskrcnn.load(tmp_path / "model.safetensors")
        assert evaluate(again, data).mask["AP"] == figures.mask["AP"]

    def test_every_loss_is_logged_and_they_add_up(self, tmp_path):
        result = train(tiny_model(), tiny_data(6), tmp_path, options(epochs=2))
        assert result.steps == 6
        lines = records(tmp_path)
        assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
        assert [line["epoch"] for line in lines] == [1, 1, 1, 2, 2, 2]
        for line in lines:
            assert line["loss"] == pytest.approx(sum(line[f"loss_{name}"] for name in LOSSES), rel=1e-5)
            assert line["images_per_second"] > 0

    def test_the_same_seed_gives_the_same_run_and_another_another(self, tmp_path):
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            torch.manual_seed(hash(name))  # what was drawn before must not matter
            train(tiny_model(), tiny_data(4), tmp_path / name, options(seed=seed))
        assert losses(tmp_path / "a") == losses(tmp_path / "b") != losses(tmp_path / "c")

    def test_images_without_objects_train(self, tmp_path):
        train(tiny_model(), Data([empty_item()] * 3), tmp_path, options(learning_rate=0.01, epochs=4))
        for line in records(tmp_path):
            assert line["loss_rpn_box"] == line["loss_box"] == line["loss_mask"] == 0
            assert 0 < line["loss"] < 10
        assert losses(tmp_path)[-1] < losses(tmp_path)[0]

    def test_a_network_without_masks_trains_on_data_without_masks(self, tmp_path):
        data = Data(
            [(image, {"boxes": t.boxes, "labels": t.labels}) for image, t in map(tiny_data(2).__getitem__, (0, 1))]
        )
        train(tiny_model(masks=False), data, tmp_path, options(), validation=data)
        assert "loss_mask" not in records(tmp_path)[0]

    def test_frozen_stages_stay_as_they_are(self, tmp_path):
        model = tiny_model(backbone__frozen_stages=2)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        train(model, tiny_data(4), tmp_path, options(epochs=2, learning_rate=0.01, weight_decay=0.1))
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        frozen = ("backbone.stem", "backbone.conv1", "backbone.norm1", "backbone.bn1", "backbone.layer1")
        assert not [name for name in changed if name.startswith(frozen)]
        trained = set(before) - {name for name in before if name.startswith(frozen)}
        assert changed == trained
        assert len(frozen) < len(set(before) - trained), "some weights are frozen"


class TestDataSets:
    def test_torchvision_dicts_and_pil_images(self, tmp_path):
        class Photos(torch.utils.data.Dataset):
            def __len__(self):
                return 2

            def __getitem__(self, index):
                image, t = tiny_data(2)[index]
                target = {
                    "boxes": t.boxes, "labels": t.labels, "masks": t.masks.to(torch.uint8), "image_id": index,
                    "iscrowd": torch.zeros(len(t), dtype=torch.int64), "area": t.area,
                }  # fmt: skip
                return Image.fromarray(image), target

        result = train(tiny_model(), Photos(), tmp_path / "photos", options(evaluate_every=1), validation=Photos())
        train(tiny_model(), tiny_data(2), tmp_path / "shapes", options())
        assert losses(tmp_path / "photos") == losses(tmp_path / "shapes")
        assert result.evaluation.num_images == 2

    def test_tensors_in_a_list(self, tmp_path):
        items = [(torch.from_numpy(i).permute(2, 0, 1) / 255, t) for i, t in map(tiny_data(2).__getitem__, (0, 1))]
        train(tiny_model(), items, tmp_path / "list", options())
        train(tiny_model(), tiny_data(2), tmp_path / "shapes", options())
        assert losses(tmp_path / "list") == losses(tmp_path / "shapes")

    def test_a_broken_file_is_named_once_and_left_out(self, tmp_path):
        broken = tmp_path / "broken.jpg"
        broken.write_bytes(b"\xff\xd8\xff\xe0 not a whole picture")
        good = tiny_data(3)
        data = Data([good[0], (broken, {"boxes": [], "labels": []}), good[1], good[2]])
        reporter, text = told()
        train(tiny_model(), data, tmp_path / "run", options(epochs=3), reporter=reporter)
        assert text().count(str(broken)) == 1
        assert "It is left out." in text()
        assert len(losses(tmp_path / "run")) == 6

    def test_another_image_takes_the_place_of_a_batch_of_broken_files(self, tmp_path):
        data = Data([tiny_data(3)[0], ("missing.jpg", {"boxes": [], "labels": []}), tiny_data(3)[1]])
        reporter, text = told()
        train(tiny_model(), data, tmp_path, options(epochs=2, batch_size=1), reporter=reporter)
        assert len(losses(tmp_path)) == 6
        assert text().count("missing.jpg: no such file") == 1

    def test_nothing_but_broken_files_stops(self, tmp_path):
        data = Data([(f"missing{i}.jpg", {"boxes": [], "labels": []}) for i in range(4)])
        with pytest.raises(
            DatasetError, match=r"No image of the training data can be read\. The first: missing\d\.jpg: no"
        ):
            train(tiny_model(), data, tmp_path, options(epochs=50))
        assert losses(tmp_path) == []

    def test_a_fault_in_the_middle_of_an_epoch_loses_no_step(self, tmp_path):
        good = tiny_data(6)
        items = [good[i] for i in range(6)]
        at = Order(6, 2, seed=0).step(2)[0][1]  # an image of the last step
        spoilt = [
            *items[:at],
            (items[at][0], {"boxes": [[1, 2, 3, 4]], "labels": [9], "masks": None}),
            *items[at + 1 :],
        ]
        with pytest.raises(InputError, match="labels"):
            train(tiny_model(), Data(spoilt), tmp_path / "run", options())
        assert len(losses(tmp_path / "run")) == 2
        train(tiny_model(seed=9), Data(items), tmp_path / "run", options(), resume=True)
        train(tiny_model(), Data(items), tmp_path / "whole", options())
        assert losses(tmp_path / "run") == losses(tmp_path / "whole")

    def test_a_failed_evaluation_does_not_lose_the_epoch(self, tmp_path):
        bad = Data([(tiny_data(1)[0][0], {"boxes": [[1, 2, 3, 4]], "labels": [9], "masks": None})])
        with pytest.raises(InputError, match="labels"):
            train(tiny_model(), tiny_data(2), tmp_path, options(evaluate_every=1), validation=bad)
        assert maskrcnn.load(tmp_path / "model.safetensors").config.num_classes == 3
        result = train(
            tiny_model(), tiny_data(2), tmp_path, options(evaluate_every=1), validation=tiny_data(1), resume=True
        )
        assert result.evaluation is not None and len(losses(tmp_path)) == 1

    def test_a_reading_process_that_dies_in_a_step_is_told_of(self, tmp_path, monkeypatch):
        model, forward = tiny_model(), MaskRCNN.forward
        readers = []

        def slow(self, *given):
            os.kill(readers[0], signal.SIGKILL)
            time.sleep(1)  # the signal of its end comes here
            return forward(self, *given)

        class Watched(torch.utils.data.DataLoader):
            def __iter__(self):
                iterator = super().__iter__()
                readers.extend(w.pid for w in iterator._workers)
                return iterator

        monkeypatch.setattr("maskrcnn.training.loader.DataLoader", Watched)
        monkeypatch.setattr(MaskRCNN, "forward", slow)
        with pytest.raises(DatasetError, match="A process that reads images has died"):
            train(model, tiny_data(4), tmp_path, options(workers=1))

    def test_an_error_of_the_data_set_is_its_own(self, tmp_path):
        with pytest.raises(RuntimeError, match="the shelf is empty"):
            train(tiny_model(), Faulty([tiny_data(1)[0]] * 2), tmp_path, options(workers=1))

    def test_a_run_that_cannot_begin_leaves_the_model_as_it_was(self, tmp_path):
        (tmp_path / "log.jsonl").mkdir()
        model = tiny_model()
        with pytest.raises(WriteError):
            train(model, tiny_data(2), tmp_path, options(precision="bf16"))
        assert "forward" not in vars(model)

    def test_a_reading_process_that_dies_is_told_of(self, tmp_path):
        with pytest.raises(DatasetError, match=r"A process that reads images has died, .* 0 reads the images in the"):
            train(tiny_model(), Dying([tiny_data(1)[0]] * 2), tmp_path, options(workers=1))

    def test_a_broken_validation_file_does_not_end_the_run(self, tmp_path):
        missing = ("missing.jpg", {"boxes": [], "labels": []})
        data = Data([tiny_data(2)[0], missing, tiny_data(2)[1]])
        reporter, text = told()
        result = train(
            tiny_model(), tiny_data(2), tmp_path, options(evaluate_every=1), validation=data, reporter=reporter
        )
        assert result.evaluation.num_images == 2
        assert "missing.jpg: no such file" in text() and "left out of the evaluation" in text()

    @pytest.mark.parametrize("workers", [0, 1])
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"labels": [3]}, r"\.labels\[0\] must be 0 to 2 for 3 classes; got 3\."),
            ({"boxes": [[30, 30, 10, 10]]}, r"\.boxes\[0\] must satisfy x1 < x2 and y1 < y2"),
            ({"masks": np.full((1, SIDE, SIDE), 255)}, r"\.masks must be bool"),
            ({"masks": None}, r"\.masks is missing"),
        ],
        ids=["label", "inverted box", "masks of 255", "no masks"],
    )
    def test_a_bad_target_is_named_by_its_image(self, tmp_path, change, said, workers):
        good = {"boxes": [[10, 10, 30, 30]], "labels": [0], "masks": np.ones((1, SIDE, SIDE), bool)}
        data = Data([empty_item(), (empty_item()[0], {**good, **change})])
        with pytest.raises(InputError, match=rf"^photos/1\.jpg: target{said}"):
            train(tiny_model(), data, tmp_path, options(workers=workers))

    def test_other_classes_are_refused(self, tmp_path):
        data = tiny_data()
        data.class_names = ("square", "circle", "triangle")
        said = "training data has the classes square, circle, triangle; the network has circle, square, triangle"
        with pytest.raises(DatasetError, match=said):
            train(tiny_model(), data, tmp_path, options())
        with pytest.raises(DatasetError, match="The validation data has"):
            train(tiny_model(), tiny_data(), tmp_path, options(), validation=data)

    def test_no_images(self, tmp_path):
        with pytest.raises(DatasetError, match="holds no images"):
            train(tiny_model(), [], tmp_path, options())


class TestNonFinite:
    def test_a_loss_that_is_nan_stops_with_step_term_and_images(self, tmp_path):
        model = tiny_model()
        with torch.no_grad():
            model.mask_head.predictor.bias.fill_(math.nan)
        with pytest.raises(NonFiniteLossError) as caught:
            train(model, tiny_data(2), tmp_path, options())
        message = str(caught.value)
        assert message.startswith("Step 1: loss_mask is nan. Images of the step: shapes/")
        assert "shapes/000000" in message and "shapes/000001" in message
        assert "No checkpoint was written" in message and "lower learning rate" in message

    def test_divergence_leaves_the_files_of_before(self, tmp_path):
        how = options(epochs=6, learning_rate=1e12, save_every=1)
        with pytest.raises(
            NonFiniteLossError, match=r"^Step (\d+): .*checkpoint\.safetensors is from before\."
        ) as caught:
            train(tiny_model(), tiny_data(2), tmp_path, how)
        step = int(str(caught.value).split(":")[0].removeprefix("Step "))
        assert step > 1
        assert [r["step"] for r in records(tmp_path)] == list(range(1, step))
        assert load_file(tmp_path / "checkpoint.safetensors")
        assert load_file(tmp_path / "model.safetensors").keys() == tiny_model().state_dict().keys()


class TestWriting:
    def test_what_a_run_leaves(self, tmp_path):
        train(tiny_model(), tiny_data(4), tmp_path, options(epochs=2, evaluate_every=1), validation=tiny_data(2, 1))
        names = {p.name for p in tmp_path.iterdir()}
        assert names == {
            "model.safetensors", "best.safetensors", "checkpoint.safetensors", "evaluation.json", "log.jsonl",
            "run.json", "tensorboard",
        }  # fmt: skip
        figures = json.loads((tmp_path / "evaluation.json").read_text())
        assert figures["num_images"] == 2 and "AP" in figures["mask"]
        assert [r["step"] for r in records(tmp_path) if "evaluation" in r] == [2, 4]
        described = json.loads((tmp_path / "run.json").read_text())
        assert described["options"]["epochs"] == 2 and described["config"]["image"]["min_size"] == SIDE

    @pytest.mark.parametrize(
        ("every", "epochs", "expected"), [(1, 3, [1, 2, 3]), (2, 3, [2, 3]), (0, 3, [])], ids=["each", "second", "none"]
    )
    def test_evaluates_every_so_many_epochs_and_at_the_end(self, tmp_path, every, epochs, expected):
        how = options(epochs=epochs, evaluate_every=every)
        result = train(tiny_model(), tiny_data(2), tmp_path, how, validation=tiny_data(1, 1))
        assert [r["step"] for r in records(tmp_path) if "evaluation" in r] == expected
        assert (result.evaluation is not None) == bool(expected)

    def test_the_best_weights_stay_when_later_ones_are_worse(self, tmp_path, monkeypatch):
        from maskrcnn.training import loop

        scores = iter([0.1, 0.4, 0.3])
        kept = []

        def evaluated(model, dataset, reporter):
            result = evaluate(model, dataset)
            result.mask["AP"] = next(scores)
            kept.append({k: v.clone() for k, v in model.state_dict().items()})
            return result

        monkeypatch.setattr(loop, "evaluate", evaluated)
        how = options(epochs=3, evaluate_every=1, learning_rate=0.01)
        train(tiny_model(), tiny_data(2), tmp_path, how, validation=tiny_data(1, 1))
        best, last = load_file(tmp_path / "best.safetensors"), load_file(tmp_path / "model.safetensors")
        assert all(torch.equal(best[k], kept[1][k]) for k in best)
        assert all(torch.equal(last[k], kept[2][k]) for k in last)

    def test_tensorboard_holds_the_same_numbers(self, tmp_path):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        train(tiny_model(), tiny_data(4), tmp_path, options(evaluate_every=1), validation=tiny_data(1, 1))
        board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        lines = [r for r in records(tmp_path) if "loss" in r]
        for name in ("loss", "loss_mask", "learning_rate", "gradient_norm"):
            shown = [(e.step, e.value) for e in board.Scalars(name)]
            assert shown == [(r["step"], np.float32(r[name])) for r in lines]
        assert board.Scalars("evaluation/mask/AP")[0].step == 2

    def test_a_full_disk_leaves_the_checkpoint_of_before(self, tmp_path, monkeypatch):
        original, calls = files.save_file, []

        def full(tensors, path, metadata=None):
            calls.append(path)
            if len(calls) > 2:
                Path(path).write_bytes(b"half")
                raise OSError(errno.ENOSPC, "No space left on device")
            original(tensors, path, metadata)

        monkeypatch.setattr(files, "save_file", full)
        with pytest.raises(WriteError) as caught:
            train(tiny_model(), tiny_data(2), tmp_path, options(epochs=2))
        path = tmp_path / "checkpoint.safetensors"
        assert str(caught.value) == (
            f"Cannot write {path}: No space left on device. What was there before is unchanged."
        )
        assert load_file(path)
        assert list(tmp_path.glob(".*")) == []

    def test_a_limit_of_the_system_leaves_the_checkpoint_of_before(self, tmp_path):
        child = [sys.executable, str(Path(__file__).with_name("limit_child.py")), str(tmp_path / "run"), "500000"]
        done = subprocess.run(child, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"Cannot write {tmp_path / 'run/checkpoint.safetensors'}: ")
        assert "File too large" in done.stdout
        assert list((tmp_path / "run").glob(".*")) == []
        resumed = train(
            tiny_model(), tiny_data(2), tmp_path / "run",
            TrainOptions(epochs=2, batch_size=2, evaluate_every=0), resume=True,
        )  # fmt: skip
        assert resumed.steps == 2 and len(losses(tmp_path / "run")) == 2

    @pytest.mark.parametrize(
        ("place", "reason"),
        [("run", "^Cannot write into .*run: it is a file, not a folder"), ("run/deeper", "deeper: Not a directory")],
        ids=["the folder is a file", "a parent is a file"],
    )
    def test_a_folder_that_cannot_be_written(self, tmp_path, place, reason):
        (tmp_path / "run").write_text("not a folder")
        with pytest.raises(WriteError, match=rf"{reason}\.$"):
            train(tiny_model(), tiny_data(2), tmp_path / place, options())

    def test_a_file_in_place_of_the_log(self, tmp_path):
        (tmp_path / "log.jsonl").mkdir()
        with pytest.raises(WriteError, match=r"log\.jsonl: Is a directory"):
            train(tiny_model(), tiny_data(2), tmp_path, options())


class TestInterrupts:
    class Interrupting(Data):
        """Presses Ctrl-C while image number `at`, counted over all reads, is read."""

        def __init__(self, data, at):
            super().__init__([data[i] for i in range(len(data))])
            self.at, self.reads = at, 0

        def __getitem__(self, index):
            self.reads += 1
            if self.reads == self.at:
                os.kill(os.getpid(), signal.SIGINT)
            return super().__getitem__(index)

    def test_an_interrupt_saves_and_the_run_goes_on_from_there(self, tmp_path):
        how = options(epochs=2, learning_rate=0.01)
        train(tiny_model(), tiny_data(6), tmp_path / "whole", how)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_model(), self.Interrupting(tiny_data(6), at=9), tmp_path / "halves", how)
        assert len(losses(tmp_path / "halves")) == 4
        train(tiny_model(), tiny_data(6), tmp_path / "halves", how, resume=True)
        assert losses(tmp_path / "halves") == losses(tmp_path / "whole")
        weights, expected = (load_file(tmp_path / f / "model.safetensors") for f in ("halves", "whole"))
        assert all(torch.equal(weights[k], expected[k]) for k in expected)

    def test_a_step_is_never_left_half_done(self, tmp_path, monkeypatch):
        how = options(epochs=2, learning_rate=0.01)
        train(tiny_model(), tiny_data(4), tmp_path / "whole", how)
        original, steps = torch.optim.SGD.step, []

        def step(self, closure=None):
            steps.append(1)
            if len(steps) == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return original(self, closure)

        monkeypatch.setattr(torch.optim.SGD, "step", step)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_model(), tiny_data(4), tmp_path / "halves", how)
        assert len(losses(tmp_path / "halves")) == 3
        train(tiny_model(), tiny_data(4), tmp_path / "halves", how, resume=True)
        assert losses(tmp_path / "halves") == losses(tmp_path / "whole")

    def test_an_evaluation_that_was_interrupted_is_made_up_for(self, tmp_path):
        how = options(evaluate_every=1)
        validation = self.Interrupting(tiny_data(2, 1), at=2)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_model(), tiny_data(2), tmp_path, how, validation=validation)
        assert (tmp_path / "checkpoint.safetensors").exists() and not (tmp_path / "evaluation.json").exists()
        result = train(tiny_model(), tiny_data(2), tmp_path, how, validation=tiny_data(2, 1), resume=True)
        assert result.evaluation is not None
        assert [("loss" in r, "evaluation" in r) for r in records(tmp_path)] == [(True, False), (False, True)]

    def test_the_handler_of_before_is_back(self, tmp_path):
        before = signal.getsignal(signal.SIGINT)
        train(tiny_model(), tiny_data(2), tmp_path, options())
        assert signal.getsignal(signal.SIGINT) is before


class TestPrecision:
    def test_bf16_on_a_cpu(self, tmp_path):
        model = tiny_model()
        train(model, tiny_data(2), tmp_path / "bf16", options(precision="bf16"))
        train(tiny_model(), tiny_data(2), tmp_path / "fp32", options())
        [half], [full] = losses(tmp_path / "bf16"), losses(tmp_path / "fp32")
        assert half != full
        assert half == pytest.approx(full, rel=0.2)
        assert all(v.dtype == torch.float32 for v in load_file(tmp_path / "bf16/model.safetensors").values())

    def test_the_model_is_itself_again_afterwards(self, tmp_path):
        model = tiny_model()
        train(model, tiny_data(2), tmp_path, options(precision="bf16"))
        assert "forward" not in vars(model)
        again = maskrcnn.load(tmp_path / "model.safetensors")
        image = tiny_data(1)[0][0]
        found, expected = model.predict(image, 0.0)[0], again.predict(image, 0.0)[0]
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=0)

    def test_fp16_on_a_cpu_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match=r"^precision fp16 needs a GPU; on a CPU take bf16 or fp32\.$"):
            train(tiny_model(), tiny_data(2), tmp_path, options(precision="fp16"), device="cpu")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_a_device_that_is_not_there_is_refused(self, tmp_path):
        with pytest.raises(InputError, match=r"^The device 'cuda:1' cannot be used here: "):
            train(tiny_model(), tiny_data(2), tmp_path, options(), device="cuda:1")


class TestOptimizer:
    def test_decay_is_for_weights_alone(self):
        model = tiny_model(backbone__norm="group")
        decayed, others = _optimizer(model, options(weight_decay=0.3)).param_groups
        names = {id(p): name for name, p in model.named_parameters()}
        assert decayed["weight_decay"] == 0.3 and others["weight_decay"] == 0
        assert all(names[id(p)].endswith("weight") for p in decayed["params"])
        assert {p.dim() for p in others["params"]} == {1}
        assert any("norm" in names[id(p)] for p in others["params"])
        assert len(decayed["params"]) + len(others["params"]) == len(names)

    def test_gradients_are_clipped_to_a_norm(self, tmp_path, monkeypatch):
        norms = []
        original = torch.optim.SGD.step

        def step(self, closure=None):
            grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            norms.append(float(torch.linalg.vector_norm(torch.stack([g.norm() for g in grads]))))
            return original(self, closure)

        monkeypatch.setattr(torch.optim.SGD, "step", step)
        train(tiny_model(), tiny_data(2), tmp_path / "free", options())
        train(tiny_model(), tiny_data(2), tmp_path / "clipped", options(clip_norm=0.5))
        logged = [records(tmp_path / name)[0]["gradient_norm"] for name in ("free", "clipped")]
        assert logged[0] == logged[1] > 0.5, "the log has the norm of before"
        assert norms == [pytest.approx(logged[0], rel=1e-4), pytest.approx(0.5, rel=1e-4)]

    def test_the_rate_of_the_schedule_is_used(self, tmp_path):
        how = options(epochs=6, learning_rate=0.01, warmup_steps=2, milestones=(0.5,), gamma=0.1)
        train(tiny_model(), tiny_data(2), tmp_path, how)
        rates = [r["learning_rate"] for r in records(tmp_path)]
        assert rates == pytest.approx([1e-5, 0.005005, 0.01, 0.001, 0.001, 0.001])
