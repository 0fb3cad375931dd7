"""The table of published checkpoints: names, digests, and files recognised by them."""

import hashlib
import re

import pytest
import torch
from narrow_torchvision import checkpoint

import maskrcnn
from maskrcnn.errors import InputError
from maskrcnn.weights import releases
from maskrcnn.weights.releases import DEFAULT, Release, file_digest, find


@pytest.mark.parametrize("release", releases.releases().values(), ids=lambda r: r.name)
def test_every_entry_is_complete(release):
    assert re.fullmatch(r"(torchvision|detectron2|matterport|keras)/\w[\w-]*", release.name)
    assert release.address.startswith("https://") and release.page.startswith("https://") and release.licence
    assert re.fullmatch(r"[0-9a-f]*", release.digest) and bool(release.digest) == (
        release.algorithm in ("sha256", "md5")
    )
    assert release.digest[:6] in release.file_name or release.name == "keras/resnet50"
    assert all(ap is None or 20 < ap < 80 for ap in (release.box, release.mask, release.keypoint))
    assert release.num_classes in ((0, 1000) if release.classifier else (1, 80, 90))
    assert not release.classifier or (release.box, release.mask) == (None, None)


def test_the_default_is_there_and_a_detector():
    assert find(DEFAULT).mask == 41.8 and not find(DEFAULT).classifier


def test_classifiers_are_no_detectors():
    with pytest.raises(InputError, match=r"torchvision/resnet50 is an image classifier.*backbone_weights"):
        maskrcnn.pretrained("torchvision/resnet50")


def test_every_release_has_a_file_of_its_own():
    several = [release.file_name for release in releases.releases().values()]
    assert len(set(several)) == len(several)
    assert {"MSRA-R-50.pkl", "torchvision-R-50.pkl", "model_final_f10217.pkl"} <= set(several)


@pytest.fixture
def only(monkeypatch, tmp_path):
    """A table of one release, whose file is a narrow network of torchvision's with 3 classes."""
    torch.save(checkpoint()[0], tmp_path / "file.pth")
    digest = file_digest(tmp_path / "file.pth", "sha256")[:8]

    def table(**fields):
        entry = {"name": "torchvision/x", "address": "https://x/file.pth", "digest": digest, **fields}
        release = Release(algorithm="sha256", licence="", page="", overrides=(("backbone.norm_eps", 0.0),), **entry)
        monkeypatch.setattr(releases, "releases", lambda: {release.name: release})
        return tmp_path / "file.pth"

    return table


def test_a_released_file_is_recognised_by_its_digest_and_nothing_is_assumed(only, caplog):
    config = maskrcnn.load(only()).config
    assert config.backbone.norm_eps == 0.0 and not caplog.records


def test_under_another_name_it_is_known_by_its_size_first(only, tmp_path):
    path = only(size=(tmp_path / "file.pth").stat().st_size)
    assert maskrcnn.load(path.rename(tmp_path / "mine.pth")).config.backbone.norm_eps == 0.0


def test_another_file_of_that_name_is_not_it(only, caplog):
    assert maskrcnn.load(only(digest="00000000")).config.backbone.norm_eps == 1e-5
    assert "The file does not tell, and it is assumed: backbone.norm_eps = 1e-05" in caplog.text


def test_md5_is_taken_where_it_is_forbidden_for_secrets(tmp_path, monkeypatch):
    real = hashlib.new

    def strict(name, data=b"", *, usedforsecurity=True):
        if name == "md5" and usedforsecurity:
            raise ValueError("disabled for FIPS")
        return real(name, data, usedforsecurity=usedforsecurity)

    monkeypatch.setattr(hashlib, "new", strict)
    (tmp_path / "file").write_bytes(b"abc")
    assert file_digest(tmp_path / "file", "md5") == "900150983cd24fb0d6963f7d28e17f72"
