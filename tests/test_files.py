"""Files appear whole or not at all."""

import os
import stat

import pytest

from maskrcnn.errors import ImageFileError, WriteError
from maskrcnn.files import clear_leftovers, replacing, write_text


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_new_file_has_the_mode_of_any_other(tmp_path):
    (tmp_path / "other").touch()
    write_text(tmp_path / "sub" / "a.json", "{}")
    assert (tmp_path / "sub" / "a.json").read_text() == "{}"
    assert (tmp_path / "sub" / "a.json").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert names(tmp_path / "sub") == ["a.json"]


def test_an_error_in_the_block_leaves_what_was_there(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as new:
        new.write_text("half" * (1 // 0))
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_full_disk_is_told_with_the_path(tmp_path):
    with (
        pytest.raises(WriteError, match=r"Cannot write .*/a: No space left on device. What was there before is unch"),
        replacing(tmp_path / "a"),
    ):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


def test_an_error_of_our_own_stays_what_it_is(tmp_path):
    with pytest.raises(ImageFileError, match="cut short"), replacing(tmp_path / "a"):
        raise ImageFileError("photo.jpg is cut short")


@pytest.mark.skipif(os.name == "nt", reason="needs modes and links of POSIX")
def test_mode_and_link_of_an_existing_file_stay(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o600)
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink() and real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="needs a device to write to")
def test_what_is_no_file_is_written_to_as_it_is(tmp_path):
    (tmp_path / "null").symlink_to("/dev/null")
    write_text(tmp_path / "null", "{}")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_the_longest_name_can_be_written(tmp_path):
    write_text(tmp_path / ("a" * 250), "x")
    assert names(tmp_path) == ["a" * 250]


def test_leftovers_of_a_killed_process_are_cleared(tmp_path):
    write_text(tmp_path / "a", "x")
    hidden = replacing(tmp_path / "b")
    hidden.__enter__()
    assert len(names(tmp_path)) == 2
    clear_leftovers(tmp_path)
    assert names(tmp_path) == ["a"]
    with pytest.raises(WriteError):  # ends the block, whose folder is gone
        hidden.__exit__(None, None, None)
