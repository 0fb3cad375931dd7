"""Pictures of every kind become uint8 RGB, and then the network's input, as the references do it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from maskrcnn.config import ImageConfig
from maskrcnn.errors import ImageFileError, InputError
from maskrcnn.images import batch_images, image_files, load_image, prepare, prepare_image, resized_size

DETECTRON2 = ImageConfig(
    channel_order="bgr", pixel_scale=1.0, mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0), resize="pil"
)
TORCHVISION = ImageConfig(resize="float")
BENCHMARK = ImageConfig(resize="pil_floor")
MATTERPORT = ImageConfig(resize="skimage", max_size=1024, padding="square")


def photo(height: int = 20, width: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Files and PIL images


def test_file_gives_its_pixels(tmp_path: Path) -> None:
    Image.fromarray(photo()).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), photo())
    np.testing.assert_array_equal(load_image(str(tmp_path / "a.png")), photo())


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    Image.fromarray(photo()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), np.rot90(photo(), -1))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGBA", "RGB", "CMYK", "YCbCr", "HSV"])
def test_every_8_bit_mode_becomes_rgb(mode: str) -> None:
    # Black and white survive every mode exactly.
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:, 3:] = 255
    rgb = Image.fromarray(pixels)
    image = rgb.convert("P").convert("PA") if mode == "PA" else rgb.convert(mode)
    assert image.mode == mode
    np.testing.assert_array_equal(load_image(image), pixels)


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(10, 20, 30, 255), (10, 20, 30, 0), (0, 0, 0, 51)])
    assert load_image(image).tolist() == [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]


def test_transparent_palette_colour_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 9, 9, 9])
    image.putdata([0, 1])
    image.save(tmp_path / "a.gif", transparency=0)
    assert load_image(tmp_path / "a.gif").tolist() == [[[255, 255, 255], [9, 9, 9]]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_file_is_scaled_and_not_stretched(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(np.array([[0, 257, 300, 1000]], np.uint16)).save(tmp_path / f"a.{suffix}")
    assert load_image(tmp_path / f"a.{suffix}")[0, :, 0].tolist() == [0, 1, 1, 4]


def test_mode_f_is_refused(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((2, 2), np.float32))
    with pytest.raises(InputError, match=r"^image: pictures of 32-bit floats \(PIL mode F\)"):
        load_image(image)
    image.save(tmp_path / "a.tif")
    with pytest.raises(ImageFileError, match=r"a\.tif: pictures of 32-bit floats"):
        load_image(tmp_path / "a.tif")


def test_values_beyond_16_bits_are_refused() -> None:
    with pytest.raises(InputError, match=r"values must be 0 to 65535 \(16 bits\); got 0 to 70000"):
        load_image(Image.fromarray(np.array([[0, 70000]], np.int32)))


def broken_files(folder: Path) -> dict[str, tuple[Path, str]]:
    Image.fromarray(photo(200, 200)).save(folder / "whole.jpg")
    Image.fromarray(photo(200, 200)).save(folder / "whole.png")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:5000])
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:5000])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.jpg").write_text("these are notes")
    (folder / "page.jpg").write_text("\n<!DOCTYPE html>")
    (folder / "lfs.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0")
    (folder / "header.png").write_bytes((folder / "whole.png").read_bytes()[:20])
    said = {
        "missing.jpg": "no such file",
        "cut.jpg": "truncated or damaged",
        "cut.png": "truncated or damaged",
        "header.png": "damaged",
        "empty.jpg": "the file is empty (0 bytes)",
        "notes.jpg": "not an image",
        "page.jpg": "probably a saved web page",
        "lfs.jpg": "git lfs pull",
        "phone.heic": "HEIC",
    }
    return {name: (folder / name, words) for name, words in said.items()} | {"folder": (folder, "is a folder")}


def test_broken_files_are_named_in_one_line(tmp_path: Path) -> None:
    for path, words in broken_files(tmp_path).values():
        with pytest.raises(ImageFileError) as caught:
            load_image(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ") and words in message and "\n" not in message
        assert caught.value.__context__ is None or caught.value.__suppress_context__  # no traceback of Pillow's


def test_truncated_file_opened_by_the_caller_is_named(tmp_path: Path) -> None:
    path, _ = broken_files(tmp_path)["cut.jpg"]
    with (
        Image.open(path) as image,
        pytest.raises(ImageFileError, match=r"cut\.jpg: the image is truncated"),
    ):
        load_image(image)


def test_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (3000, 1000)).save(tmp_path / "a.png")
    for limit in (
        1_000_000,
        2_000_000,
    ):  # an error above twice the limit, a warning (here an error) above it
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ImageFileError, match=r"a\.png: 3 million pixels are refused.*MAX_IMAGE_PIXELS"):
            load_image(tmp_path / "a.png")


# Arrays and tensors


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1)])
def test_grey_array_becomes_rgb(shape: tuple[int, ...]) -> None:
    grey = np.arange(24, dtype=np.uint8).reshape(shape)
    np.testing.assert_array_equal(load_image(grey), np.stack([grey.reshape(4, 6)] * 3, axis=-1))


def test_rgba_array_is_laid_on_white() -> None:
    pixels = np.array([[[1, 2, 3, 255], [1, 2, 3, 0]]], np.uint8)
    assert load_image(pixels).tolist() == [[[1, 2, 3], [255, 255, 255]]]


def test_uint16_array_is_scaled() -> None:
    pixels = np.full((2, 2, 3), 65535, np.uint16)
    assert (load_image(pixels) == 255).all()
    assert (load_image(pixels[..., 0] // 2) == 127).all()  # 32767 / 257 = 127.498


def test_flipped_array_is_taken() -> None:
    np.testing.assert_array_equal(load_image(photo()[::-1, ::-1]), np.ascontiguousarray(photo()[::-1, ::-1]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_tensor_gives_its_pixels(dtype: torch.dtype) -> None:
    tensor = torch.from_numpy(photo()).permute(2, 0, 1)
    tensor = tensor if dtype == torch.uint8 else tensor.to(dtype) / 255
    np.testing.assert_array_equal(load_image(tensor), photo())


BAD_IMAGES = {
    "chw array": (
        np.zeros((3, 20, 30), np.uint8),
        "images[1] must be a uint8 array [H, W, 3] of RGB pixels; got uint8 [3, 20, 30]. "
        "It looks like CHW; pass image.transpose(1, 2, 0).",
    ),
    "batch array": (
        np.zeros((2, 20, 30, 3), np.uint8),
        "It looks like a batch; pass a list of its images.",
    ),
    "two channels": (np.zeros((20, 30, 2), np.uint8), "got uint8 [20, 30, 2]."),
    "empty array": (np.zeros((0, 30, 3), np.uint8), "with at least one pixel; got uint8 [0, 30, 3]."),
    "float array 0 to 1": (np.ones((2, 2, 3)), "pass (image * 255).round().astype(np.uint8)."),
    "float array 0 to 255": (
        np.full((2, 2, 3), 255.0),
        "values 255 to 255. If 0 is black, pass image.astype",
    ),
    "bool array": (np.ones((2, 2), bool), "got bool [2, 2]"),
    "int64 array": (np.full((2, 2, 3), 7), "pass image.astype(np.uint8)."),
    "hwc tensor": (
        torch.zeros(20, 30, 3),
        "images[1] must be a tensor [3, H, W], uint8 or float from 0 to 1; got float32 [20, 30, 3]. "
        "It looks like HWC; pass image.permute(2, 0, 1).",
    ),
    "one-channel tensor": (
        torch.zeros(1, 20, 30),
        "got float32 [1, 20, 30], a single channel. For a grey picture pass image.expand(3, -1, -1).",
    ),
    "two-dimensional tensor": (torch.zeros(20, 30), "a single channel"),
    "batch tensor": (torch.zeros(2, 3, 20, 30), "It looks like a batch"),
    "four-channel tensor": (torch.zeros(4, 20, 30), "got float32 [4, 20, 30]."),
    "empty tensor": (torch.zeros(3, 0, 30), "with at least one pixel"),
    "float tensor 0 to 255": (
        torch.full((3, 2, 2), 255.0),
        "with values 255 to 255. It probably is 0 to 255; divide it by 255 or pass uint8.",
    ),
    "normalised tensor": (torch.full((3, 2, 2), -1.5), "It probably is normalised already"),
    "nan tensor": (
        torch.full((3, 2, 2), float("nan")),
        "got float32 [3, 2, 2] that holds NaN or infinity.",
    ),
    "int64 tensor": (torch.zeros(3, 2, 2, dtype=torch.int64), "Pass image.to(torch.uint8)."),
}


@pytest.mark.parametrize(("image", "words"), BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_bad_image_is_refused_with_a_sentence(image: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_image(image, "images[1]")
    message = str(caught.value)
    assert words in message and message.startswith("images[1] must be") and message.endswith(".")


@pytest.mark.usefixtures("unchecked")
def test_what_opencv_returns_for_a_missing_file_is_explained() -> None:
    with pytest.raises(InputError, match=r"got NoneType. OpenCV's imread returns None"):
        load_image(None)  # type: ignore[arg-type]


# Lists of files


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "c[1].png", "sub/d.tif", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def names(paths: list[Path]) -> list[str]:
    return [p.name for p in paths]


def test_folder_gives_its_pictures_sorted(album: Path) -> None:
    assert names(image_files([album])) == ["a.PNG", "b.jpg", "c[1].png"]
    assert names(image_files([album], recursive=True)) == ["a.PNG", "b.jpg", "c[1].png", "d.tif"]


def test_pattern_gives_pictures_only(album: Path) -> None:
    assert names(image_files([f"{album}/*"])) == ["a.PNG", "b.jpg", "c[1].png"]
    assert names(image_files([f"{album}/**/*.tif"])) == ["d.tif"]


def test_named_files_come_first_as_given_and_once(album: Path) -> None:
    given = [album / "notes.txt", album / "c[1].png", f"{album}/sub/../b.jpg", album]
    assert names(image_files(given)) == ["notes.txt", "c[1].png", "b.jpg", "a.PNG"]


def test_no_inputs_give_no_files() -> None:
    assert image_files([]) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "nowhere: no such file or folder"),
        ("*.webp", r"the pattern .*\*\.webp matches no pictures"),
        ("notes*", r"matches no pictures \(.jpg, .png, .tif, …\); it has 1 other file\."),
        ("void", r"the folder .*void holds no pictures"),
    ],
    ids=["missing", "pattern without match", "pattern without picture", "empty folder"],
)
def test_what_gives_no_picture_is_named(album: Path, name: str, words: str) -> None:
    (album / "void").mkdir()
    with pytest.raises(InputError, match=words):
        image_files([album / name])


# The network's input


@pytest.mark.parametrize(
    ("size", "config", "expected"),
    [
        ((536, 559), DETECTRON2, (800, 834)),  # 834.3
        ((536, 559), TORCHVISION, (800, 834)),
        ((480, 640), DETECTRON2, (800, 1067)),  # 1066.7 rounds up in one, down in the other
        ((480, 640), TORCHVISION, (800, 1066)),
        ((400, 1000), DETECTRON2, (533, 1333)),  # the longer side limits: 533.2
        ((1000, 400), TORCHVISION, (1333, 533)),
        ((1, 5000), DETECTRON2, (1, 1333)),  # 0.27 would vanish
        ((1, 5000), TORCHVISION, (1, 1333)),
        ((800, 800), DETECTRON2, (800, 800)),
        ((1, 1), TORCHVISION, (800, 800)),
        ((480, 640), BENCHMARK, (800, 1066)),
        ((400, 1000), BENCHMARK, (533, 1332)),  # the shorter side is rounded first: 533.2, then 533 · 2.5 = 1332.5
        ((1000, 400), BENCHMARK, (1332, 533)),
        ((7, 300), ImageConfig(resize="pil_floor", min_size=64, max_size=128, padding="square"), (3, 128)),
        ((536, 559), MATTERPORT, (800, 834)),
        ((900, 950), MATTERPORT, (900, 950)),  # never smaller for the sake of min_size
        ((500, 1000), MATTERPORT, (512, 1024)),
        ((2000, 1000), MATTERPORT, (1024, 512)),
        ((1023, 1025), MATTERPORT, (1022, 1024)),
    ],
)
def test_resized_size_by_hand(size: tuple[int, int], config: ImageConfig, expected: tuple[int, int]) -> None:
    assert resized_size(*size, config) == expected


def test_skimage_resize_by_hand() -> None:
    config = ImageConfig(min_size=4, max_size=4, resize="skimage", pixel_scale=1, mean=(0, 0, 0), std=(1, 1, 1))
    image = np.array([[0, 100], [200, 255]], np.uint8)[:, :, None].repeat(3, axis=2)
    # Samples lie at −0.25, 0.25, 0.75 and 1.25; the photo lies on black; fractions are cut.
    rows = np.array([[0.75, 0], [0.75, 0.25], [0.25, 0.75], [0, 0.75]])
    expected = torch.from_numpy(np.trunc(rows @ image[:, :, 0] @ rows.T)).float()
    assert expected[0].tolist() == [0, 18, 56, 56]
    assert torch.equal(prepare_image(image, config), expected.expand(3, 4, 4))


def test_skimage_resize_leaves_a_photo_of_the_right_size_alone() -> None:
    config = ImageConfig(min_size=20, max_size=30, resize="skimage", pixel_scale=1, mean=(0, 0, 0), std=(1, 1, 1))
    assert torch.equal(prepare_image(photo(), config), torch.from_numpy(photo()).permute(2, 0, 1).float())


def test_image_in_the_middle_of_black() -> None:
    config = ImageConfig(
        min_size=32, max_size=64, padding="square", padding_place="center", padding_fill="black", mean=(0.5, 0, 0.2)
    )
    batch = batch_images([torch.ones(3, 31, 20)], [(31, 20)], config)
    assert batch.tensor.shape == (1, 3, 64, 64)
    assert batch.starts.tolist() == [[16, 22]] and batch.windows().tolist() == [[22, 16, 42, 47]]
    assert batch.windows("input").tolist() == [[0, 0, 64, 64]]
    assert torch.equal(batch.tensor[0, :, 16:47, 22:42], torch.ones(3, 31, 20))
    black = torch.tensor([-0.5 / 0.229, 0, -0.2 / 0.225])
    torch.testing.assert_close(batch.tensor[0, :, 15, 22], black)
    assert batch.meta(2)[0, 7:11].tolist() == [16, 22, 47, 42]


@pytest.mark.parametrize("config", [DETECTRON2, TORCHVISION], ids=["pil", "float"])
def test_resized_sides_never_exceed_the_limits(config: ImageConfig) -> None:
    for height, width in np.random.default_rng(0).integers(1, 3000, (2000, 2)).tolist():
        sides = resized_size(height, width, config)
        assert min(sides) >= 1 and max(sides) <= config.max_size and min(sides) <= config.min_size


def test_float_resize_is_torch_interpolate_with_one_scale() -> None:
    config = TORCHVISION.model_copy(update={"min_size": 31, "max_size": 50})
    mean, std = (torch.tensor(v)[:, None, None] for v in (config.mean, config.std))
    for size in ((20, 30), (17, 40), (64, 48), (33, 33)):
        x = (torch.from_numpy(photo(*size)).permute(2, 0, 1).float() / 255 - mean) / std
        scale = min(config.min_size / min(size), config.max_size / max(size))
        expected = F.interpolate(
            x[None], scale_factor=scale, mode="bilinear", align_corners=False, recompute_scale_factor=True
        )[0]
        torch.testing.assert_close(prepare_image(photo(*size), config), expected, rtol=0, atol=0)


def test_pil_resize_is_pillows_to_the_bit() -> None:
    config = DETECTRON2.model_copy(update={"min_size": 11, "max_size": 50})
    resized = np.asarray(Image.fromarray(photo()).resize((17, 11), Image.Resampling.BILINEAR))
    bgr = torch.from_numpy(resized[:, :, ::-1].copy()).permute(2, 0, 1).float()
    expected = bgr - torch.tensor(config.mean)[:, None, None]
    torch.testing.assert_close(prepare_image(photo(), config), expected, rtol=0, atol=0)


def test_uniform_picture_is_normalised_by_hand() -> None:
    config = ImageConfig(min_size=2, max_size=2, mean=(0.5, 0.0, 0.2), std=(0.5, 1.0, 0.25))
    x = prepare_image(np.full((2, 2, 3), 255, np.uint8), config)
    torch.testing.assert_close(x[:, 0, 0], torch.tensor([1.0, 1.0, 3.2]))


@pytest.mark.parametrize(("padding", "expected"), [("batch", (64, 64)), ("square", (96, 96))])
def test_padding_is_zero_right_and_below(padding: str, expected: tuple[int, int]) -> None:
    config = ImageConfig.model_validate({"min_size": 32, "max_size": 80, "padding": padding})
    images = [torch.ones(3, 40, 20), torch.full((3, 33, 64), 2.0)]
    batch = batch_images(images, [(4, 2), (5, 6)], config)
    assert batch.tensor.shape == (2, 3, *expected)
    assert batch.sizes.tolist() == [[40, 20], [33, 64]] and batch.original_sizes.tolist() == [
        [4, 2],
        [5, 6],
    ]
    for slot, image in zip(batch.tensor, images, strict=True):
        torch.testing.assert_close(slot[:, : image.shape[1], : image.shape[2]], image)
        assert slot.sum() == image.sum()


def test_image_larger_than_the_square_is_refused() -> None:
    config = ImageConfig(min_size=32, max_size=64, padding="square")
    with pytest.raises(InputError, match=r"fit in max_size 64 for square padding; got 65 × 20"):
        batch_images([torch.zeros(3, 65, 20)], [(65, 20)], config)


def test_prepare_takes_all_kinds_together(tmp_path: Path) -> None:
    Image.fromarray(photo()).save(tmp_path / "a.png")
    config = ImageConfig(min_size=32, max_size=64)
    tensor = torch.from_numpy(photo()).permute(2, 0, 1)
    batch = prepare([tmp_path / "a.png", photo(), Image.fromarray(photo()), tensor, photo(50, 20)], config)
    for i in range(1, 4):
        torch.testing.assert_close(batch.tensor[0], batch.tensor[i], rtol=0, atol=0)
    assert batch.original_sizes.tolist() == [[20, 30]] * 4 + [[50, 20]]


def test_batch_of_two_equals_two_batches_of_one() -> None:
    config = ImageConfig(min_size=32, max_size=64)
    both, one = prepare([photo(), photo(50, 20)], config), prepare([photo()], config)
    torch.testing.assert_close(both.tensor[:1, :, : one.tensor.shape[2], : one.tensor.shape[3]], one.tensor)


def test_empty_batch_is_refused() -> None:
    with pytest.raises(InputError, match="images must hold at least one image"):
        prepare([], ImageConfig())


def test_errors_of_prepare_name_the_image() -> None:
    with pytest.raises(InputError, match=r"^images\[1\] must be"):
        prepare([photo(), photo().transpose(2, 0, 1)], ImageConfig())
    with pytest.raises(InputError, match=r"^images\[8\] must be"):
        prepare([photo().transpose(2, 0, 1)], ImageConfig(), first=8)


def test_padding_reaches_a_size_that_is_asked_for() -> None:
    config = ImageConfig(size_divisor=32)
    batch = batch_images([torch.ones(3, 31, 20)], [(31, 20)], config, at_least=(40, 64))
    assert batch.tensor.shape == (1, 3, 64, 64)
    assert batch.tensor.sum() == 3 * 31 * 20
