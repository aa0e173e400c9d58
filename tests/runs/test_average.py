"""The age of a Polyak average: how much of what it started from is still in it, across checkpoints and versions."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixel_snail.runs import average
from pixel_snail.runs.average import Age

DECAYS = st.sampled_from([0.0, 0.5, 0.9, 0.99])


@given(st.lists(st.tuples(st.booleans(), DECAYS, st.integers(0, 40)), max_size=5))
def test_the_weights_are_those_of_the_values_that_the_average_is_a_sum_of(starts):
    """Every start of a run has a decay of its own, and goes on with the run or loads its checkpoint as another run."""
    age = Age()
    # How much of the initial parameters, of the loaded average and of the steps since then the average consists of.
    initial, loaded, steps = np.array([1.0, 0.0]), 0.0, 0.0
    for is_another_run, decay, number in starts:
        if is_another_run:
            age = Age(age.of_initial, of_loaded=1.0)
            loaded, steps = 1.0, 0.0
        for _ in range(number):
            initial = decay * initial + (1 - decay) * np.array([0.0, 1.0])
            loaded, steps = decay * loaded, decay * steps + (1 - decay)
            age.take_step(decay)
        # Through a checkpoint, nothing changes.
        assert average.from_tensors(age.tensors(), "nowhere") == age
    np.testing.assert_allclose([age.of_initial, age.of_loaded], [initial[0], loaded], rtol=1e-12)


@pytest.mark.parametrize(
    "flags, tensors, age",
    [
        ({"polyak_decay": 0.5, "load_params": None}, {"steps_taken": 3, "refused": 1}, Age(0.25, 0.0)),
        ({"polyak_decay": 0.5, "load_params": "other"}, {"steps_taken": 3, "refused": 1}, Age(None, None)),
        ({"load_params": None}, {"steps_taken": 3, "refused": 1}, Age(None, None)),
        ({"polyak_decay": "much", "load_params": None}, {"steps_taken": 3, "refused": 1}, Age(None, None)),
        ({"polyak_decay": 7, "load_params": None}, {"steps_taken": 3, "refused": 1}, Age(None, None)),
        ([], {"steps_taken": 3, "refused": 1}, Age(None, None)),
        (None, {"steps_taken": 3, "refused": 1}, Age(None, None)),
        ({"polyak_decay": 0.5, "load_params": None}, {}, Age(None, None)),  # the original's
        ({"polyak_decay": 0.5, "load_params": None}, {"weight_of_loaded": 0.75}, Age(None, 0.75)),
    ],
)
def test_a_checkpoint_that_does_not_tell_its_age_has_that_of_its_runs_flags_if_they_tell_it(
    flags, tensors, age, tmp_path
):
    if flags is not None:
        (tmp_path / "flags.json").write_text(json.dumps(flags))
    assert average.from_tensors(tensors, str(tmp_path / "0" / "params.ckpt")) == age


@pytest.mark.parametrize(
    "age, told",
    [
        (Age(), "the initial parameters still have a weight of 100.0% in the average"),
        (Age(0.0501, 0.0), "the initial parameters still have a weight of 5.0% in the average"),
        (Age(0.01, 0.5), "the loaded parameters still have a weight of 50.0% in the average"),
        (
            Age(0.4, 0.5),
            "the loaded parameters still have a weight of 50.0% and "
            "the initial parameters still have a weight of 40.0% in the average",
        ),
        (Age(0.05, 0.05), None),
        (Age(None, None), None),
    ],
)
def test_an_average_is_young_as_long_as_what_it_started_from_weighs_more_than_5_percent(age, told):
    assert age.why_young() == told


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan, "a", np.ones(2)])
def test_nonsense_is_no_age(value):
    with pytest.raises((TypeError, ValueError)):
        average.from_tensors({"weight_of_initial": value, "weight_of_loaded": 0.5}, "nowhere")
