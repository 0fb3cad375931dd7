"""Learning rates worked by hand, and what options refuse."""

import pytest
from pydantic import ValidationError

from maskrcnn.errors import ConfigError
from maskrcnn.fields import checked
from maskrcnn.training import TrainOptions


def rates(total, **options):
    made = TrainOptions(**{"learning_rate": 1.0, "schedule": "step", "warmup_steps": 0, **options})
    return [made.rate(step, total) for step in range(total)]


def test_steps_of_the_papers():
    # Mask R-CNN's 1x schedule: 90 000 steps, divided by ten at 60 000 and at 82 500 = 11/12.
    options = TrainOptions(learning_rate=0.02, schedule="step", warmup_steps=0)
    at = {step: options.rate(step, 90_000) for step in (0, 59_999, 60_000, 82_499, 82_500, 89_999)}
    assert at == pytest.approx({0: 0.02, 59_999: 0.02, 60_000: 2e-3, 82_499: 2e-3, 82_500: 2e-4, 89_999: 2e-4})


def test_cosine_by_hand():
    assert rates(4, schedule="cosine") == pytest.approx([1, 0.5 + 0.5 * 0.5**0.5, 0.5, 0.5 - 0.5 * 0.5**0.5])


def test_warm_up_is_linear_from_a_thousandth():
    assert rates(6, warmup_steps=4, milestones=()) == pytest.approx([0.001, 0.25075, 0.5005, 0.75025, 1, 1])


def test_warm_up_and_schedule_multiply():
    assert rates(2, warmup_steps=2, milestones=(0.5,))[1] == pytest.approx(0.1 * 0.5005)


@pytest.mark.parametrize(("total", "expected"), [(9, 0), (40, 4), (100_000, 500)])
def test_warm_up_takes_a_tenth_of_the_run_and_at_most_500_steps(total, expected):
    made = TrainOptions(learning_rate=1.0, schedule="step", milestones=())
    assert sum(made.rate(step, total) < 1 for step in range(min(total, 1000))) == expected


@pytest.mark.parametrize(("epochs", "expected"), [(1, 1), (12, 1), (50, 5)])
def test_evaluates_about_ten_times_by_default(epochs, expected):
    assert TrainOptions(epochs=epochs).epochs_between_evaluations == expected


@pytest.mark.parametrize("total", [1, 2, 3, 7])
def test_every_rate_is_positive(total):
    assert all(rate > 0 for schedule in ("step", "cosine") for rate in rates(total, schedule=schedule))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("epochs", 0, "epochs should be greater than or equal to 1; got 0."),
        ("learning_rate", 0.0, "learning_rate should be greater than 0; got 0.0."),
        ("learning_rate", float("nan"), "learning_rate should be a finite number; got nan."),
        ("flip", 1.5, "flip should be less than or equal to 1; got 1.5."),
        ("optimizer", "adam", "optimizer should be 'sgd' or 'adamw'; got 'adam'."),
        ("workers", -1, "workers should be greater than or equal to 0; got -1."),
        ("learning_rat", 1, "Unknown configuration key 'learning_rat'. Did you mean 'learning_rate'?"),
    ],
)
def test_values_out_of_range(name, value, said):
    with pytest.raises(ConfigError) as caught:
        checked(TrainOptions, {name: value})
    assert str(caught.value) == said


def test_options_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        TrainOptions().epochs = 3
