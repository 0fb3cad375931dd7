"""Stage names: kept while a recording is under way, and nothing otherwise."""

from __future__ import annotations

import pytest
import torch

from maskrcnn.stages import is_recording, recording, records_all_slots, stage


def test_stage_returns_its_tensor() -> None:
    x = torch.zeros(2)
    assert stage("p2", x) is x
    with recording():
        assert stage("p2", x) is x


def test_recording_keeps_stages_in_their_order() -> None:
    p3, p2 = torch.zeros(1), torch.ones(1)
    with recording() as tensors:
        stage("p3", p3)
        stage("p2", p2)
    assert list(tensors) == ["p3", "p2"]
    assert tensors["p3"] is p3 and tensors["p2"] is p2


def test_nothing_recorded() -> None:
    with recording() as tensors:
        pass
    assert tensors == {}


def test_what_comes_before_and_after_is_not_kept() -> None:
    stage("before", torch.zeros(1))
    with recording() as tensors:
        stage("during", torch.zeros(1))
    stage("after", torch.zeros(1))
    assert list(tensors) == ["during"]


def test_it_can_be_asked_whether_a_recording_is_under_way() -> None:
    assert not is_recording()
    with recording():
        assert is_recording()
    assert not is_recording()


def test_all_slots_are_asked_for_unless_the_recording_says_otherwise() -> None:
    assert not records_all_slots()
    with recording():
        assert records_all_slots()
        with recording(all_slots=False):
            assert is_recording() and not records_all_slots()
        assert records_all_slots()
    assert not records_all_slots()


def test_a_recording_inside_another_keeps_its_own() -> None:
    with recording() as outer:
        stage("a", torch.zeros(1))
        with recording() as inner:
            stage("b", torch.zeros(1))
        stage("d", torch.zeros(1))
    assert list(inner) == ["b"]
    assert list(outer) == ["a", "d"]


def test_recording_ends_with_an_error() -> None:
    with pytest.raises(ZeroDivisionError), recording() as tensors:
        raise ZeroDivisionError
    stage("after", torch.zeros(1))
    assert tensors == {}
