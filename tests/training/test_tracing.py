"""Looks inside a network while it learns: what reaches TensorBoard, and that the run is not changed by them."""

from __future__ import annotations

import io
import json
import signal
import sys

import numpy as np
import pytest
import torch
import train_child
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maskrcnn.data import ShapesDataset
from maskrcnn.errors import InputError, NonFiniteLossError
from maskrcnn.inspection import steps
from maskrcnn.inspection.step_pictures import ground_truth, step_pictures
from maskrcnn.inspection.steps import step_trace, write_activations, write_gradients
from maskrcnn.progress import Reporter
from maskrcnn.stages import is_recording, recording
from maskrcnn.training import TrainOptions, train
from maskrcnn.training.loader import Order, TrainingItems, training_batches
from tiny import PAPERS, SIDE, tiny_data, tiny_model

EVERY = 3


def options(**changes):
    return TrainOptions(**{**PAPERS, "epochs": 2, "batch_size": 2, "evaluate_every": 0, **changes})


def board(folder):
    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "histograms": 0}).Reload()


def records(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def told():
    written = io.StringIO()
    return Reporter(Console(file=written, width=500)), written.getvalue


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """The folder of a run of eight steps, looked into after steps 1, 3 and 6."""
    folder = tmp_path_factory.mktemp("traced")
    train(tiny_model(), tiny_data(8), folder, options(trace_every=EVERY), device="cpu")
    return folder


@pytest.fixture(scope="module")
def events(traced):
    return board(traced)


class Written:
    """What stands in for TensorBoard's writer."""

    def __init__(self):
        self.scalars, self.histograms, self.images = {}, {}, {}

    def add_scalar(self, name, value, step):
        self.scalars[name] = value

    def add_histogram(self, name, values, step):
        self.histograms[name] = values

    def add_image(self, name, values, step, dataformats):
        assert dataformats == "HWC"
        self.images[name] = values


class TestTheRun:
    def test_it_is_the_same_to_the_last_bit(self, traced, tmp_path):
        train(tiny_model(), tiny_data(8), tmp_path, options(), device="cpu")
        assert records(traced) == records(tmp_path)
        ours, theirs = load_file(traced / "model.safetensors"), load_file(tmp_path / "model.safetensors")
        assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []

    def test_the_first_step_and_every_so_many_are_looked_into(self, events):
        for tag in ("zeros/c2", "gradients/rpn", "deltas/rpn_shift_max"):
            assert [e.step for e in events.Scalars(tag)] == [1, 3, 6], tag
        assert [e.step for e in events.Histograms("activations/p3")] == [1, 3, 6]
        assert [e.step for e in events.Images("step/proposals")] == [1, 3, 6]

    def test_only_those_steps_are_recorded(self, tmp_path, monkeypatch):
        model, recorded = tiny_model(), []
        forward = model.rpn.losses
        monkeypatch.setattr(model.rpn, "losses", lambda *given: recorded.append(is_recording()) or forward(*given))
        train(model, tiny_data(8), tmp_path, options(trace_every=EVERY), device="cpu")
        assert recorded == [True, False, True, False, False, True, False, False]

    def test_nothing_is_looked_into_by_default(self, tmp_path):
        train(tiny_model(), tiny_data(2), tmp_path, options(epochs=1), device="cpu")
        tags = board(tmp_path).Tags()
        assert tags["histograms"] == tags["images"] == []
        assert not [tag for tag in tags["scalars"] if "/" in tag]

    def test_the_time_of_a_look_is_not_the_steps(self, tmp_path, monkeypatch):
        ticks = iter(range(10_000))
        monkeypatch.setattr("maskrcnn.training.loop.time.monotonic", lambda: float(next(ticks)))
        train(tiny_model(), tiny_data(4), tmp_path, options(trace_every=2, epochs=2), device="cpu")
        speeds = [json.loads(line)["images_per_second"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
        assert speeds == [0.667, 0.667, 2.0, 0.667]
        # A step of two images takes a tick; that of a look is two calls of the clock more, whose ticks remain.

    def test_resumed_it_is_the_uninterrupted_one(self, traced, tmp_path):
        class Stopping(ShapesDataset):
            reads = 0

            def __getitem__(self, index):
                self.reads += 1
                if self.reads > 10:
                    raise RuntimeError("the disk was unplugged")
                return super().__getitem__(index)

        stopping = Stopping(8, (SIDE, SIDE), seed=0)
        with pytest.raises(RuntimeError, match="unplugged"):
            train(tiny_model(), stopping, tmp_path, options(trace_every=EVERY, save_every=2), device="cpu")
        train(tiny_model(), tiny_data(8), tmp_path, options(trace_every=EVERY), device="cpu", resume=True)
        assert records(tmp_path) == records(traced)
        assert [e.step for e in board(tmp_path).Images("step/proposals")] == [1, 3, 6]
        assert len(list((tmp_path / "tensorboard").iterdir())) == 2
        assert board(tmp_path).Tags()["graph"]

    def test_how_often_may_differ_when_a_run_is_resumed(self, tmp_path):
        train(tiny_model(), tiny_data(4), tmp_path, options(epochs=1), device="cpu")
        result = train(
            tiny_model(), tiny_data(4), tmp_path, options(epochs=1, trace_every=5), device="cpu", resume=True
        )
        assert result.steps == 2


class TestWhatIsWritten:
    def test_activations_of_every_level_and_head(self, events):
        stages = {f"c{k}" for k in range(1, 6)} | {f"p{k}" for k in range(2, 7)} | {"rpn_objectness", "rpn_deltas"}
        stages |= {"box_features", "class_logits", "box_deltas", "mask_features", "mask_logits"}
        assert set(events.Tags()["histograms"]) == {f"activations/{name}" for name in stages}
        for kind in ("zeros", "not_finite"):
            assert {t for t in events.Tags()["scalars"] if t.startswith(f"{kind}/")} == {f"{kind}/{s}" for s in stages}

    def test_gradients_by_part_and_block_add_up_to_the_norm_of_the_log(self, events):
        blocks = [tag for tag in events.Tags()["scalars"] if tag.startswith("gradients/")]
        assert {"gradients/backbone.layer3", "gradients/fpn", "gradients/rpn", "gradients/mask_head"} < set(blocks)
        parts = [f"gradients_by_part/{part}" for part in ("backbone", "rpn", "heads")]
        logged = {e.step: e.value for e in events.Scalars("gradient_norm")}
        for tags in (blocks, parts):
            for number, step in enumerate((1, 3, 6)):
                values = np.array([events.Scalars(tag)[number].value for tag in tags])
                assert np.linalg.norm(values) == pytest.approx(logged[step], rel=1e-4)

    def test_pictures_of_the_step(self, events):
        names = ("ground_truth", "matched_anchors", "proposals", "sampled_rois", "mask_targets")
        assert {f"step/{name}" for name in names} == set(events.Tags()["images"])
        for name in names:
            picture = Image.open(io.BytesIO(events.Images(f"step/{name}")[0].encoded_image_string))
            assert min(picture.size) > 100 and len(picture.getcolors(1 << 20)) > 20

    def test_shares_of_zeros_dead_channels_and_what_is_not_finite(self):
        written, model = Written(), tiny_model()
        c2 = torch.ones(2, 4, 2, 2)
        c2[:, 1] = 0  # in all images
        c2[0, 2] = 0  # in one
        c2[0, 0, 0, 0] = float("nan")
        deltas = {"rpn_deltas": torch.zeros(2, 3, 4), "box_deltas": torch.zeros(4, 3, 4)}
        valid = {"sampled_rois_valid": torch.ones(2, 2, dtype=torch.bool)}
        write_activations(written, 1, model, {"c2": c2, **deltas, **valid})
        assert written.scalars["zeros/c2"] == pytest.approx(12 / 32)
        assert written.scalars["dead_channels/c2"] == 0.25
        assert written.scalars["not_finite/c2"] == pytest.approx(1 / 32)
        assert np.isfinite(written.histograms["activations/c2"]).all()

    def test_deltas_are_shifts_in_sides_and_logarithms_of_scales(self):
        written, model = Written(), tiny_model()
        model.config = model.config.replace({"box.delta_weights": (10.0, 10.0, 5.0, 5.0)})
        rpn, box = torch.zeros(1, 2, 4), torch.zeros(2, 1, 4)
        rpn[0, 0] = torch.tensor([0.5, -1.5, 0.0, 2.0])
        box[0, 0] = torch.tensor([10.0, 0.0, -5.0, 0.0])
        box[1] = 1e6  # a slot without a RoI
        valid = {"sampled_rois_valid": torch.tensor([[True, False]])}
        write_activations(written, 1, model, {"rpn_deltas": rpn, "box_deltas": box, **valid})
        found = {k.removeprefix("deltas/"): v for k, v in written.scalars.items() if k.startswith("deltas/")}
        assert found == {
            "rpn_shift_mean": 0.5, "rpn_shift_max": 1.5, "rpn_scale_mean": 0.5, "rpn_scale_max": 2.0,
            "box_shift_mean": 0.5, "box_shift_max": 1.0, "box_scale_mean": 0.5, "box_scale_max": 1.0,
        }  # fmt: skip

    def test_of_a_large_stage_a_sample_is_taken_of_every_column(self, monkeypatch):
        monkeypatch.setattr(steps, "MOST_VALUES", 64)
        written = Written()
        c2 = torch.arange(16.0).expand(1, 8, 32, 16).contiguous()
        empty = {"rpn_deltas": torch.zeros(1, 0, 4), "box_deltas": torch.zeros(0, 1, 4)}
        valid = {"sampled_rois_valid": torch.ones(1, 0, dtype=torch.bool)}
        write_activations(written, 1, tiny_model(), {"c2": c2, **empty, **valid})
        values = written.histograms["activations/c2"]
        assert 32 <= len(values) <= 128 and set(values) == set(range(16))

    def test_a_block_without_gradients_has_a_norm_of_zero(self):
        written, model = Written(), tiny_model()
        model.fpn.requires_grad_(False)
        model.rpn.objectness.weight.grad = torch.full_like(model.rpn.objectness.weight, 0.5)
        norm = 0.5 * model.rpn.objectness.weight.numel() ** 0.5
        write_gradients(written, 1, model, 10 * norm)  # limited to a tenth by now
        assert written.scalars["gradients/rpn"] == pytest.approx(10 * norm)
        assert written.scalars["gradients/mask_head"] == 0
        assert "gradients/fpn" not in written.scalars

    def test_a_bad_loss_is_looked_into_before_it_ends_the_run(self, tmp_path):
        model = tiny_model()
        with torch.no_grad():
            model.box_head.class_logits.bias.fill_(float("nan"))
        with pytest.raises(NonFiniteLossError):
            train(model, tiny_data(2), tmp_path, options(trace_every=1), device="cpu")
        events = board(tmp_path)
        assert events.Scalars("not_finite/class_logits")[0].value == 1
        assert events.Scalars("not_finite/p2")[0].value == 0
        assert "step/sampled_rois" in events.Tags()["images"]

    def test_images_without_objects(self, tmp_path):
        data = [(np.full((SIDE, SIDE, 3), 90, np.uint8), {"boxes": [], "labels": []})] * 2
        train(tiny_model(), data, tmp_path, options(trace_every=1, epochs=1), device="cpu")
        tags = board(tmp_path).Tags()
        assert "step/sampled_rois" in tags["images"] and "step/mask_targets" not in tags["images"]
        assert "activations/mask_logits" not in tags["histograms"]

    def test_a_network_without_masks(self, tmp_path):
        train(tiny_model(masks=False), tiny_data(2), tmp_path, options(trace_every=1, epochs=1), device="cpu")
        tags = board(tmp_path).Tags()
        assert "step/ground_truth" in tags["images"] and "activations/mask_logits" not in tags["histograms"]


@pytest.fixture(scope="module")
def step():
    """The network, the data, the batch and the stages of a step on two images of unlike sizes."""
    model = tiny_model(image__min_size=48, image__max_size=96)
    data = [tiny_data(2)[0], ShapesDataset(1, (60, 90), seed=3)[0]]
    items = TrainingItems(data, model.config, flip=0.0, seed=0)
    [batch] = training_batches(items, Order(2, 2, seed=0), 0, 1, 0)
    with recording() as stages, torch.no_grad():
        model(batch.images, batch.targets)
    return model, data, batch, stages


class TestOneImageOfABatch:
    def test_it_has_the_rows_of_its_own(self, step):
        model, _, batch, stages = step
        traces = [step_trace(model, stages, batch.images, batch.targets, index) for index in (0, 1)]
        for name in ("c2", "sampled_rois", "box_features", "mask_targets", "matched_gt"):
            assert torch.equal(torch.cat([t[name] for t in traces]), stages[name]), name
        assert all(torch.equal(t["anchors"], stages["anchors"]) for t in traces)
        assert [list(t) for t in traces] == [list(stages)] * 2

    def test_its_photo_is_what_the_network_saw(self, step):
        model, data, batch, stages = step
        for index, name in enumerate(batch.names):
            shown = step_trace(model, stages, batch.images, batch.targets, index).run.photo
            image = data[int(name.split()[1])][0]
            height, width = batch.images.sizes[index].tolist()
            resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
            assert shown.shape == (height, width, 3)
            np.testing.assert_allclose(shown, np.asarray(resized), atol=1)

    def test_boxes_of_the_input_lie_on_that_photo_as_they_are(self, step):
        model, _, batch, stages = step
        run = step_trace(model, stages, batch.images, batch.targets, 1).run
        boxes = torch.tensor([[3.0, 4.0, 20.0, 30.0]])
        torch.testing.assert_close(run.to_photo(boxes), boxes)

    def test_there_must_be_such_an_image(self, step):
        model, _, batch, stages = step
        with pytest.raises(InputError, match="index must be one of the 2 images of the batch; got 2"):
            step_trace(model, stages, batch.images, batch.targets, 2)

    @pytest.mark.parametrize("order", ["rgb", "bgr"])
    def test_colours_are_those_of_the_photo(self, order):
        model = tiny_model(image__channel_order=order)
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        image[..., 0] = 200
        items = TrainingItems([(image, {"boxes": [], "labels": []})], model.config, 0.0, 0)
        [batch] = training_batches(items, Order(1, 1, seed=0), 0, 1, 0)
        shown = step_trace(model, {}, batch.images, batch.targets).run.photo
        assert shown[10, 10].tolist() == [200, 0, 0]

    def test_the_ground_truth_is_drawn_where_it_lies(self):
        image, target = tiny_data(1)[0]
        picture = np.asarray(ground_truth(tiny_model().trace(image, targets=target)), np.int64)
        scale = picture.shape[0] // SIDE
        plain = np.asarray(Image.fromarray(image).resize(picture.shape[1::-1], Image.Resampling.BICUBIC), np.int64)
        changed = np.abs(picture - plain).sum(-1) > 60
        union = target.masks.any(0).numpy().repeat(scale, 0).repeat(scale, 1)
        assert changed[union].mean() > 0.7
        boxes = np.zeros_like(union)
        for x1, y1, x2, y2 in (target.boxes * scale).round().long().tolist():
            boxes[max(y1 - 30, 0) : y2 + 30, max(x1 - 2, 0) : x2 + 90] = True  # with room for the label
        assert not changed[~boxes].any()

    def test_a_trace_of_inference_has_no_ground_truth_to_show(self):
        trace = tiny_model().trace(tiny_data(1)[0][0])
        assert [name for name, _ in step_pictures(trace)] == ["proposals"]


class TestTheGraph:
    def test_it_is_written_at_the_start(self, events):
        graph = events.Graph()
        assert {node.name.split("/")[0] for node in graph.node} == {
            "image", "backbone", "rpn", "roi_align", "heads",
        }  # fmt: skip

    def test_it_is_written_without_looks_inside_too(self, tmp_path):
        train(tiny_model(), tiny_data(2), tmp_path, options(epochs=1), device="cpu")
        assert board(tmp_path).Tags()["graph"]


class TestWhenItCannotBeShown:
    def test_without_tensorboard_one_warning_says_so(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        reporter, said = told()
        train(tiny_model(), tiny_data(4), tmp_path, options(trace_every=1), device="cpu", reporter=reporter)
        warning = 'Warning: TensorBoard is not installed, so --trace-every shows nothing: pip install "maskrcnn[train]"'
        assert said().count("Warning") == 1 and warning in said()
        assert len(records(tmp_path)) == 4

    def test_without_tensorboard_and_unasked_nothing_is_said(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        reporter, said = told()
        train(tiny_model(), tiny_data(2), tmp_path, options(), device="cpu", reporter=reporter)
        assert "Warning" not in said()

    def test_a_picture_that_cannot_be_drawn_ends_no_run(self, tmp_path, monkeypatch):
        def broken(trace):
            raise RuntimeError("no more paint")

        monkeypatch.setattr("maskrcnn.inspection.step_pictures.ground_truth", broken)
        reporter, said = told()
        train(tiny_model(), tiny_data(4), tmp_path, options(trace_every=1), device="cpu", reporter=reporter)
        assert said().count("could not be drawn: RuntimeError: no more paint") == 1
        assert len(records(tmp_path)) == 4
        assert len(board(tmp_path).Scalars("gradients/rpn")) == 4

    @pytest.mark.parametrize("every", [-1, 1.5])
    def test_a_number_of_steps_is_wanted(self, every):
        with pytest.raises(ValueError, match="trace_every"):
            options(trace_every=every)


def test_a_run_killed_and_resumed_is_that_of_the_other_tests(tmp_path):
    """Tracing in one half of a run changes nothing of what the other half computes."""
    train_child.run(tmp_path / "plain")
    changed = TrainOptions(**{**train_child.OPTIONS.model_dump(), "trace_every": 2})
    torch.set_num_threads(1)
    train(tiny_model(), tiny_data(6), tmp_path / "traced", changed, tiny_data(2, seed=1), device="cpu")
    assert records(tmp_path / "traced") == records(tmp_path / "plain")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
