"""Find objects in a photo with a network that `maskrcnn export --format pt2` compiled, without the package maskrcnn.

    python detect.py model.cpu.pt2 photo.jpg

Needs torch, of the version that compiled the file, and Pillow to read the photo. Loading the file runs the native code
in it: run files of your own.
"""

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

MARK = "maskrcnn."
"""Begins the names of what the file tells."""


def prepare(photo: torch.Tensor, about: dict[str, str]) -> torch.Tensor:
    """Return a photo [3, H, W] of 0 to 255 as the network wants it: normalised and resized, not yet padded.

    The shorter side becomes min_size, or the longer one max_size if that is less. "float" rounds sizes down, as
    torchvision does, "pil" to the nearest pixel, and smooths what it makes smaller, as Detectron2 does.
    """
    if about["resize"] not in ("float", "pil"):
        raise SystemExit(f"This example resizes as float and pil; the network wants {about['resize']}.")
    if about["channel_order"] == "bgr":
        photo = photo.flip(0)
    height, width = photo.shape[1:]
    scale = min(float(about["min_size"]) / min(height, width), float(about["max_size"]) / max(height, width))
    half = 0.0 if about["resize"] == "float" else 0.5
    size = [max(1, int(side * scale + half)) for side in (height, width)]
    mean, std = (torch.tensor([float(v) for v in about[name].split()])[:, None, None] for name in ("mean", "std"))
    smooths = about["resize"] == "pil"
    if smooths:
        photo = F.interpolate(photo[None], size, mode="bilinear", antialias=True)[0].round()
    image = (photo / (1 / float(about["pixel_scale"])) - mean) / std
    return image if smooths else F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]


def pad(image: torch.Tensor, about: dict[str, str]) -> torch.Tensor:
    """Return the image at the top left of an input of the size that the file was made for."""
    if not about["padding"].endswith("corner mean"):
        raise SystemExit(
            f"This example pads right and below, with the mean colour; the network wants {about['padding']}."
        )
    batch, *fixed = (int(v) for v in about["input"].split())
    divisor, least = int(about["size_divisor"]), int(about["least_side"])
    height, width = fixed
    if about["dynamic"] in ("size", "both"):
        wanted = [int(about["max_size"])] * 2 if about["padding"].startswith("square") else image.shape[1:]
        height, width = (max(least, -(-side // divisor) * divisor) for side in wanted)
    if image.shape[1] > height or image.shape[2] > width:
        raise SystemExit(f"The photo is {list(image.shape[1:])} once resized, and the file takes {fixed}.")
    padded = image.new_zeros(1 if about["dynamic"] in ("batch", "both") else batch, 3, height, width)
    padded[0, :, : image.shape[1], : image.shape[2]] = image
    return padded


def detect(path: str, photo: torch.Tensor, least_score: float) -> list[dict[str, Any]]:
    """Return what is found: class, score, box in pixels of the photo and mask logits of M × M in the box's frame."""
    network = torch._inductor.aoti_load_package(path)
    about = {k.removeprefix(MARK): v for k, v in network.get_metadata().items() if k.startswith(MARK)}
    image = prepare(photo, about)
    batch = pad(image, about)
    sizes = torch.tensor([image.shape[1:]]).repeat(len(batch), 1)
    with torch.inference_mode():
        found = network(batch, sizes)
    scale = torch.tensor([photo.shape[2] / image.shape[2], photo.shape[1] / image.shape[1]]).repeat(2)
    keep = found["valid"][0] & (found["scores"][0] >= least_score)
    names = about["class_names"].split("\n")
    return [
        {
            "class": names[int(found["labels"][0, i])],
            "score": float(found["scores"][0, i]),
            "box": (found["boxes"][0, i] * scale).tolist(),
            "mask_logits": found["mask_logits"][0, i] if "mask_logits" in found else None,
        }
        for i in keep.nonzero()[:, 0].tolist()
    ]


def main() -> None:
    """Print a line for each object: class, score, box, and pixels of the M × M mask."""
    parser = argparse.ArgumentParser(description="Find objects in a photo with a compiled network.")
    parser.add_argument("model")
    parser.add_argument("photo")
    parser.add_argument("--least-score", type=float, default=0.5)
    given = parser.parse_args()
    with Image.open(given.photo) as picture:
        rgb = ImageOps.exif_transpose(picture).convert("RGB")  # phones note which way up a photo is
    pixels = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8).reshape(rgb.height, rgb.width, 3)
    for one in detect(given.model, pixels.permute(2, 0, 1).float(), given.least_score):
        mask = "" if one["mask_logits"] is None else f"  {int((one['mask_logits'] > 0).sum())}"
        print(f"{one['class']:<20} {one['score']:.6f}  {' '.join(f'{v:.4f}' for v in one['box'])}{mask}")


if __name__ == "__main__":
    main()
