"""Batches: which images, in which order, and what becomes of each."""

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn.config import Config
from maskrcnn.errors import DatasetError, InputError
from maskrcnn.structures import Target
from maskrcnn.training.loader import Order, TrainingItems, mirrored, training_batches
from tiny import SIDE, TINY, tiny_data

CONFIG = Config.preset("small-fpn", class_names=["circle", "square", "triangle"], overrides=TINY)


def items(dataset, flip=0.5, seed=0, config=CONFIG):
    return TrainingItems(dataset, config, flip, seed)


class TestOrder:
    @pytest.mark.parametrize(
        ("length", "batch_size", "processes"),
        [(1, 1, 1), (1, 8, 1), (10, 3, 1), (12, 3, 1), (7, 2, 2), (10, 2, 3)],
        ids=["one", "batch larger than the data", "rest", "even", "two processes", "three processes"],
    )
    def test_every_epoch_has_every_image(self, length, batch_size, processes):
        orders = [Order(length, batch_size, 0, rank, processes) for rank in range(processes)]
        steps = orders[0].steps_per_epoch
        for epoch in range(2):
            taken = [item for s in range(steps) for o in orders for item in o.step(epoch * steps + s)]
            assert {e for e, _ in taken} == {epoch}
            assert {i for _, i in taken} == set(range(length))
            assert processes > 1 or len(taken) == length, "one process takes every image once"

    def test_processes_share_the_batch_out(self):
        alone = Order(12, 4, 3).step(1)
        shares = [Order(12, 2, 3, rank, 2).step(1) for rank in range(2)]
        assert not set(shares[0]) & set(shares[1])
        assert sorted(shares[0] + shares[1]) == sorted(alone)

    def test_every_process_always_has_a_full_batch(self):
        for rank in range(3):
            order = Order(7, 2, 0, rank, 3)
            assert [len(order.step(s)) for s in range(4)] == [2, 2, 2, 2]

    def test_epochs_differ_and_repeat_with_the_seed(self):
        def epoch(seed, number):
            return [i for s in range(5) for _, i in Order(10, 2, seed).step(5 * number + s)]

        assert epoch(0, 0) != epoch(0, 1)
        assert epoch(0, 0) != epoch(1, 0)
        assert epoch(0, 1) == epoch(0, 1)

    def test_the_last_batch_holds_the_rest(self):
        assert [len(Order(5, 2, 0).step(s)) for s in range(6)] == [2, 2, 1, 2, 2, 1]


class TestMirrored:
    def test_by_hand(self):
        image = np.zeros((4, 10, 3), np.uint8)
        image[:, 1:3] = 255
        masks = torch.zeros(1, 4, 10, dtype=torch.bool)
        masks[0, 0, 1:3] = True
        target = Target(torch.tensor([[1.0, 0, 3, 1]]), torch.tensor([2]), masks, area=torch.tensor([2.0]))
        flipped_image, flipped = mirrored(image, target)
        assert flipped.boxes.tolist() == [[7, 0, 9, 1]]
        assert flipped.masks[0, 0].nonzero().flatten().tolist() == [7, 8]
        assert (flipped_image[0, :, 0] == 255).nonzero()[0].tolist() == [7, 8]
        assert flipped.labels.tolist() == [2] and flipped.area.tolist() == [2]

    def test_the_box_stays_around_its_mask(self):
        image, target = tiny_data(4)[3]
        _, flipped = mirrored(image, target)
        assert len(flipped) > 0
        for box, mask in zip(flipped.boxes, flipped.masks, strict=True):
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            tight = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
            assert box.tolist() == tight

    def test_twice_is_the_identity(self):
        image, target = tiny_data()[0]
        again_image, again = mirrored(*mirrored(image, target))
        np.testing.assert_array_equal(again_image, image)
        torch.testing.assert_close(again.boxes, target.boxes)
        assert torch.equal(again.masks, target.masks)

    def test_left_and_right_keypoints_change_places(self):
        points = torch.tensor([[[2.0, 1, 2], [7, 3, 1], [0, 0, 0]]])
        target = Target(torch.tensor([[1.0, 0, 9, 4]]), torch.tensor([0]), keypoints=points)
        image = np.zeros((4, 10, 3), np.uint8)
        _, flipped = mirrored(image, target, ("left_eye", "right_eye", "nose"))
        assert flipped.keypoints.tolist() == [[[3, 3, 1], [8, 1, 2], [0, 0, 0]]]
        _, same = mirrored(image, flipped, ("left_eye", "right_eye", "nose"))
        assert torch.equal(same.keypoints, points)

    @pytest.mark.parametrize(("offset", "mirror"), [(0.5, 7.5), (0.0, 8.0)])
    def test_keypoints_count_pixels_from_the_offset(self, offset, mirror):
        class One:
            class_names = ("a",)

            def __len__(self):
                return 1

            def __getitem__(self, index):
                points = torch.tensor([[[2.0, 3, 2], [0, 0, 0]]])
                return np.zeros((10, 10, 3), np.uint8), Target(
                    torch.tensor([[1.0, 1, 9, 9]]), torch.tensor([0]), keypoints=points
                )

        same = {"image.min_size": 10, "image.max_size": 10, "image.resize": "pil"}
        names = {"keypoint_names": ("p", "q"), "keypoint.pixel_offset": offset}
        config = Config.preset("small-fpn", class_names=("a",), masks=False, overrides={**same, **names})
        for flip, x in ((0.0, 2 + offset), (1.0, mirror)):
            target = TrainingItems(One(), config, flip, seed=0)[0, 0].target
            assert target.keypoints.tolist() == [[[x, 3 + offset, 2], [0, 0, 0]]]

    def test_without_objects_and_without_masks(self):
        image = np.zeros((4, 6, 3), np.uint8)
        _, flipped = mirrored(image, Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)))
        assert len(flipped) == 0 and flipped.masks is None


class TestItems:
    def test_an_item_depends_on_epoch_and_index_alone(self):
        first, second = items(tiny_data()), items(tiny_data())
        for index in (3, 0):
            first[(0, index)]  # other items read before must not matter
        torch.manual_seed(99)
        for key in ((0, 0), (1, 0), (7, 3)):
            a, b = first[key], second[key]
            assert torch.equal(a.image, b.image) and torch.equal(a.target.boxes, b.target.boxes)

    def test_mirrors_about_as_often_as_asked(self):
        data = tiny_data(2)
        plain, both = items(data, flip=0.0), items(data, flip=0.5)
        flipped = sum(not torch.equal(both[(e, 0)].image, plain[(e, 0)].image) for e in range(60))
        assert 18 < flipped < 42
        assert torch.equal(items(data, flip=1.0)[(0, 0)].image, plain[(0, 0)].image.flip(-1))

    @pytest.mark.parametrize("workers", [1, 2])
    def test_workers_change_nothing(self, workers):
        order = Order(6, 2, 0)
        alone = list(training_batches(items(tiny_data()), order, 2, 7, 0))
        several = list(training_batches(items(tiny_data()), order, 2, 7, workers))
        assert len(alone) == len(several) == 5
        for a, b in zip(alone, several, strict=True):
            assert a.names == b.names
            torch.testing.assert_close((*a.images, *a.targets), (*b.images, *b.targets), rtol=0, atol=0)

    def test_an_iteration_leaves_the_global_generator_alone(self):
        before = torch.get_rng_state()
        list(training_batches(items(tiny_data(4)), Order(4, 2, 0), 0, 2, 0))
        assert torch.equal(torch.get_rng_state(), before)

    def test_crowds_are_removed(self):
        image, target = tiny_data(4)[3]
        target.crowd = torch.zeros(len(target), dtype=torch.bool)
        target.crowd[0] = True
        item = items([(image, target)], flip=0.0)[(0, 0)]
        assert len(item.target) == len(target) - 1
        torch.testing.assert_close(item.target.boxes, target.boxes[1:])

    def test_image_and_target_are_resized_together(self):
        config = CONFIG.replace({"image.min_size": 2 * SIDE, "image.max_size": 2 * SIDE})
        image, target = tiny_data()[0]
        item = items([(image, target)], flip=0.0, config=config)[(0, 0)]
        assert item.image.shape == (3, 2 * SIDE, 2 * SIDE)
        torch.testing.assert_close(item.target.boxes, target.boxes * 2)
        assert item.target.masks.shape[1:] == (2 * SIDE, 2 * SIDE)
        assert item.original_size == (SIDE, SIDE)

    def test_sizes_are_padded_to_one_batch(self):
        def made(height, width):
            boxes = torch.tensor([[0.0, 0, 5, 5]])
            masks = torch.zeros(1, height, width, dtype=torch.bool)
            masks[:, :5, :5] = True
            return np.full((height, width, 3), 200, np.uint8), Target(boxes, torch.tensor([0]), masks)

        [batch] = training_batches(items([made(64, 40), made(30, 64)], flip=0.0), Order(2, 2, 0), 0, 1, 0)
        assert batch.images.tensor.shape == (2, 3, 64, 64)
        assert sorted(batch.images.sizes.tolist()) == [[30, 64], [64, 40]]
        assert batch.targets.masks.shape[-2:] == (64, 64)


class TestErrors:
    """An error reaches the loop as a value, since a worker process would bury it in a traceback."""

    GOOD = (np.zeros((SIDE, SIDE, 3), np.uint8), {"boxes": [], "labels": []})
    MISSING = ("a.jpg", {"boxes": [], "labels": []})
    BAD = (GOOD[0], {"boxes": [], "labels": [3]})

    @staticmethod
    def collate(*values, keys):
        made = items(list(values))
        return made.collate([made[0, key] for key in keys])

    def test_an_unreadable_image_leaves_the_batch(self):
        batch = self.collate(self.GOOD, self.MISSING, keys=(0, 1))
        assert len(batch.images.tensor) == 1
        assert len(batch.skipped) == 1 and batch.skipped[0].startswith("a.jpg: no such file")

    def test_the_next_readable_image_takes_the_place_of_a_whole_batch(self):
        batch = self.collate(self.GOOD, self.MISSING, self.MISSING, keys=(1, 2))
        assert batch.names == ("item 0 of the data set",)
        assert len(batch.images.tensor) == 1 and len(batch.skipped) == 2

    def test_no_readable_image_at_all_is_an_error(self):
        error = self.collate(self.MISSING, self.MISSING, keys=(0, 1))
        assert isinstance(error, DatasetError)
        assert str(error).startswith("No image of the training data can be read. The first: a.jpg: no such file")

    def test_any_other_error_comes_instead_of_the_batch(self):
        error = self.collate(self.GOOD, self.MISSING, self.BAD, keys=(0, 1, 2))
        assert isinstance(error, InputError) and "labels" in str(error)

    def test_a_bad_target_is_named_by_its_image(self):
        class Named(list):
            def image_name(self, index):
                return f"photos/{index}.jpg"

        bad = (np.zeros((SIDE, SIDE, 3), np.uint8), {"boxes": [[1, 2, 3, 4]], "labels": [3], "masks": []})
        error = items(Named([bad]))[(0, 0)]
        assert isinstance(error, InputError)
        assert str(error).startswith("photos/0.jpg: target.labels[0] must be 0 to 2 for 3 classes; got 3.")

    def test_a_broken_file_is_named_by_its_path(self, tmp_path):
        path = tmp_path / "broken.png"
        Image.new("RGB", (SIDE, SIDE)).save(path)
        path.write_bytes(path.read_bytes()[:60])
        unreadable = items([(path, {"boxes": [], "labels": []})])[(0, 0)]
        assert unreadable.reason.startswith(str(path))
