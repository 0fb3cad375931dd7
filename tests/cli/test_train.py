"""`maskrcnn train`."""

import json

import pytest
import torch
from cli_words import words

import maskrcnn
from reference import resnet as reference
from tiny import SIDE


def steps(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "loss" in line]


def test_trains_on_a_folder_and_says_what_to_do_next(train, labelled, tmp_path):
    status, out, err = train(labelled)
    assert status == 0
    best = tmp_path / "run" / "best.safetensors"
    assert steps(tmp_path / "run") == [1, 2]
    assert maskrcnn.load(best).config.class_names == ("circle", "square", "triangle")
    assert "4 images to train on, 2 to evaluate on; 3 classes. Learning rate 0.001 for 2 images a step." in err
    assert f"Next: maskrcnn predict {best} PHOTOS -o found" in words(err)
    assert "COCO figures on 2 images" in out


def test_json_alone_is_on_standard_output(train, labelled, tmp_path):
    status, out, _ = train(labelled, "--json")
    told = json.loads(out)
    assert status == 0
    assert told["steps"] == 2
    assert told["weights"] == str(tmp_path / "run" / "model.safetensors")
    assert set(told["evaluation"]["box"]) == set(told["evaluation"]["mask"])


def test_quiet_says_nothing_but_the_result(train, labelled):
    status, out, err = train(labelled, "--quiet")
    assert (status, err) == (0, "")
    assert out.startswith("COCO figures")


def test_a_json_file_trains_without_evaluation(train, labelled, tmp_path):
    status, out, err = train(labelled / "annotations" / "train.json")
    assert (status, out) == (0, "")
    assert "4 images to train on, 0 to evaluate on" in err
    assert not (tmp_path / "run" / "best.safetensors").exists()
    assert "model.safetensors" in err


def test_options_reach_the_run(train, labelled, tmp_path):
    train(labelled, "--optimizer", "sgd", "--schedule", "step", "--lr", 0.01, "--clip-norm", 0, "--seed", 3)
    options = json.loads((tmp_path / "run" / "run.json").read_text())["options"]
    wanted = {"optimizer": "sgd", "schedule": "step", "learning_rate": 0.01, "clip_norm": 0.0, "seed": 3}
    assert wanted.items() <= options.items()


@pytest.mark.parametrize(
    ("arguments", "rate"),
    [([], 0.001), (["--optimizer", "sgd"], 0.0025), (["--optimizer", "sgd", "--batch-size", "16"], 0.02)],
    ids=["adamw", "sgd", "the papers' 16 images"],
)
def test_the_rate_fits_optimizer_and_batch(train, labelled, tmp_path, arguments, rate):
    train(labelled, *arguments)
    options = json.loads((tmp_path / "run" / "run.json").read_text())["options"]
    assert options["learning_rate"] == pytest.approx(rate)


def test_a_finished_run_is_kept_and_resumed_without_a_step(train, labelled, tmp_path):
    train(labelled)
    before = (tmp_path / "run" / "log.jsonl").read_text()
    status, _, err = train(labelled)
    assert status == 2
    assert "already holds a run. Continue it with --resume, or choose another folder." in words(err)
    assert train(labelled, "--resume")[0] == 0
    assert (tmp_path / "run" / "log.jsonl").read_text() == before


def test_weights_go_on_with_their_own_network_at_a_lower_rate(run, train, labelled, weights, tmp_path):
    status, _, err = run(
        *("train", labelled, "--weights", weights, "-o", tmp_path / "more", "--epochs", 1, "--device", "cpu")
    )
    assert status == 0
    assert "Learning rate 0.0001 for 4 images a step" in err
    assert maskrcnn.load(tmp_path / "more" / "model.safetensors").config.image.min_size == SIDE


@pytest.mark.parametrize(
    ("arguments", "norm", "frozen", "said"),
    [
        ([], "group", 0, "as by --set backbone.frozen_stages=0 --set backbone.norm=group."),
        (["--set", "backbone.norm=batch"], "batch", 0, "as by --set backbone.frozen_stages=0."),
        (["--set", "backbone.norm=frozen_batch", "--set", "backbone.frozen_stages=1"], "frozen_batch", 1, None),
    ],
    ids=["by default", "with BatchNorm", "as the papers"],
)
def test_the_whole_backbone_learns_from_random_weights(run, labelled, tmp_path, arguments, norm, frozen, said):
    narrow = [w for k in ("backbone.width=8", "fpn.channels=8", "image.min_size=64") for w in ("--set", k)]
    options = ["-o", tmp_path / "run", "--epochs", 1, "--preset", "resnet18-fpn", "--device", "cpu", *narrow]
    status, _, err = run("train", labelled / "annotations" / "train.json", *options, *arguments)
    config = maskrcnn.load(tmp_path / "run" / "model.safetensors").config
    assert (status, config.backbone.norm, config.backbone.frozen_stages) == (0, norm, frozen)
    assert (said in words(err)) if said else ("From random weights" not in err)


def test_a_backbone_from_a_classifier_keeps_the_papers_recipe(run, labelled, tmp_path):
    state = reference.state(18)
    torch.save(state, tmp_path / "r.pth")
    narrow = [w for k in ("backbone.width=8", "fpn.channels=8", "image.min_size=64") for w in ("--set", k)]
    options = ["-o", tmp_path / "run", "--epochs", 1, "--preset", "resnet18-fpn", "--device", "cpu", *narrow]
    data = labelled / "annotations" / "train.json"
    status, _, err = run("train", data, *options, "--set", f"backbone_weights={tmp_path / 'r.pth'}")
    assert status == 0
    assert f"Mask R-CNN on ResNet-18-FPN with 3 classes, its backbone from {tmp_path / 'r.pth'}." in words(err)
    assert "Learning rate 0.0001" in err and "From random weights" not in err
    model = maskrcnn.load(tmp_path / "run" / "model.safetensors")
    assert (model.config.backbone.norm, model.config.backbone.frozen_stages) == ("frozen_batch", 2)
    assert torch.equal(model.backbone.layer1[1].conv2.weight, state["layer1.1.conv2.weight"])  # frozen
    assert not torch.equal(model.backbone.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


def test_no_classifier_is_a_start_from_random_weights(train, labelled):
    _, _, err = train(labelled, "--set", "backbone_weights=null")
    assert "Learning rate 0.001 " in err


def test_weights_of_other_classes_keep_those_they_share(run, labelled, weights, tmp_path, caplog):
    path = labelled / "annotations" / "train.json"
    path.write_text(path.read_text().replace('"circle"', '"disc"'))
    options = ["-o", tmp_path / "more", "--epochs", 1, "--lr", 1e-9, "--warmup", 0, "--weight-decay", 0]
    status, *_ = run("train", path, "--val", path, "--weights", weights, *options, "--device", "cpu")
    assert status == 0
    assert "classes: kept square, triangle; disc starts anew; dropped circle." in caplog.text
    before, after = maskrcnn.load(weights), maskrcnn.load(tmp_path / "more" / "model.safetensors")
    assert after.config.class_names == ("disc", "square", "triangle")
    old, new = (m.box_head.class_logits.weight for m in (before, after))
    torch.testing.assert_close(new[1:], old[1:], rtol=0, atol=1e-6)
    assert not torch.allclose(new[0], old[0], atol=1e-3)


def test_without_masks_it_is_faster_rcnn(train, labelled, tmp_path):
    path = labelled / "annotations" / "train.json"
    contents = json.loads(path.read_text())
    for annotation in contents["annotations"]:
        del annotation["segmentation"]
    path.write_text(json.dumps(contents))
    status, out, _ = train(path, "--val", path, "--set", "masks=false")
    assert status == 0
    assert "Mask" not in out
    assert not maskrcnn.load(tmp_path / "run" / "model.safetensors").config.masks


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "rpn.nms_treshold=0.6"], "key 'rpn.nms_treshold'. Did you mean 'nms_threshold'?"),
        (["--set", "rpn.nms_threshold=7"], "rpn.nms_threshold should be less than or equal to 1; got 7."),
        (["--set", "rpn.nms_threshold"], "--set takes KEY=VALUE, as rpn.nms_threshold=0.6; got 'rpn.nms_threshold'."),
        (["--preset", "resnet50-fnp"], "Unknown preset 'resnet50-fnp'. Did you mean 'resnet50-fpn'?"),
        (["--optimizer", "adam"], "optimizer should be 'sgd' or 'adamw'; got 'adam'."),
        (["--epochs", "0"], "epochs should be greater than or equal to 1; got 0."),
        (["--lr", "-1"], "learning_rate should be greater than 0; got -1.0."),
        (["--lr", "nan"], "learning_rate should be a finite number; got nan."),
        (["--batch-size", "0"], "batch_size should be greater than or equal to 1; got 0."),
        (["--weights", "x.safetensors", "--preset", "resnet50"], "--weights bring their own network; leave out"),
        (["--precision", "fp16"], "precision fp16 needs a GPU; on a CPU take bf16 or fp32."),
        (["--seed", "99999999999999"], "seed should be less than 4294967296; got 99999999999999."),
        (["--set", 'class_names=["a"]'], "class_names cannot be set: a new network learns the classes of the data."),
        (["--set", 'keypoint_names=["a"]'], "keypoint_names cannot be set: --keypoints learns"),
        (["--device", "gpu"], "The device 'gpu' cannot be used here"),
        (["--weights", "none.safetensors"], "There is no weights file none.safetensors."),
        (["--images", "nowhere"], "the images folder nowhere does not exist"),
        (["--val", "none.json"], "There is no file or folder none.json."),
    ],
    ids=lambda v: " ".join(v[:2]) if isinstance(v, list) else "",
)  # fmt: skip
def test_wrong_options_are_refused_before_anything_is_written(train, labelled, tmp_path, arguments, said):
    status, _, err = train(labelled, *arguments)
    assert status == 2
    assert said in words(err)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made_fails(train, labelled, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    status, _, err = train(labelled, output=tmp_path / "file" / "run")
    assert status == 1
    assert f"Cannot write {tmp_path / 'file' / 'run'}: Not a directory." in words(err)


def with_keypoints(folder):
    """Give every object of a labelled folder two keypoints: the middle and the upper left of its box."""
    for path in (folder / "annotations").glob("*.json"):
        contents = json.loads(path.read_text())
        for category in contents["categories"]:
            category |= {"keypoints": ["middle", "corner"], "skeleton": [[1, 2]]}
        for annotation in contents["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation |= {"keypoints": [x + w / 2, y + h / 2, 2, x, y, 2], "num_keypoints": 2}
        path.write_text(json.dumps(contents))


def test_keypoints_from_data_to_predictions(train, run, labelled, album, tmp_path):
    with_keypoints(labelled)
    few = ["--set", "keypoint.num_convs=1", "--set", "keypoint.channels=16"]
    status, out, _ = train(labelled, "--keypoints", *few)
    assert status == 0 and "COCO keypoint figures" in out
    best = tmp_path / "run" / "model.safetensors"
    config = maskrcnn.load(best).config
    assert config.keypoint_names == ("middle", "corner") and config.keypoint.skeleton == ((0, 1),)
    low = ["--set", "box.score_threshold=0", "--threshold", "0", "--device", "cpu", "-o", tmp_path / "found"]
    status, _, _ = run("predict", best, album, *low)
    [first, *_] = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert status == 0 and len(first["keypoints"]) == 6
    status, out, _ = run("evaluate", best, labelled, "--device", "cpu")
    assert status == 0 and "COCO keypoint figures" in out
    status, *_ = run("train", labelled, "--weights", best, "-o", tmp_path / "more", "--epochs", 1, "--device", "cpu")
    assert status == 0


def test_weights_without_masks_learn_none_unless_asked(run, labelled, weights, tmp_path):
    options = ["--epochs", 1, "--device", "cpu"]
    maskrcnn.load(weights, overrides={"masks": False}).save(tmp_path / "boxes.safetensors")
    train = ("train", labelled, "--weights", tmp_path / "boxes.safetensors", *options)
    status, _, err = run(*train, "-o", tmp_path / "without")
    assert status == 0 and "no mask head, and none is learnt; --set masks=true starts one" in words(err)
    status, _, err = run(*train, "--set", "masks=true", "-o", tmp_path / "with")
    assert status == 0 and "no mask head" not in words(err)
    assert maskrcnn.load(tmp_path / "with" / "model.safetensors").config.masks


def test_weights_without_a_keypoint_head_get_one(run, labelled, weights, tmp_path, caplog):
    with_keypoints(labelled)
    few = ["--set", "keypoint.num_convs=1", "--set", "keypoint.channels=16", "--epochs", 1, "--device", "cpu"]
    status, *_ = run("train", labelled, "--weights", weights, "--keypoints", *few, "-o", tmp_path / "more")
    assert status == 0 and "keypoints: middle, corner start anew" in caplog.text
    more = tmp_path / "more" / "model.safetensors"
    status, *_ = run("train", labelled, "--weights", more, "--no-keypoints", *few, "-o", tmp_path / "less")
    assert status == 0 and not maskrcnn.load(tmp_path / "less" / "model.safetensors").config.keypoint_names


def test_keypoints_must_be_in_the_data(train, labelled):
    status, _, err = train(labelled, "--keypoints")
    assert status == 2 and "no category names keypoints" in words(err)


def test_validation_data_with_other_keypoints_are_refused(train, labelled):
    with_keypoints(labelled)
    path = labelled / "annotations" / "val.json"
    path.write_text(path.read_text().replace('"corner"', '"edge"'))
    status, _, err = train(labelled, "--keypoints")
    assert status == 2
    assert "validation data has the keypoints middle, edge; the network has middle, corner" in words(err)
