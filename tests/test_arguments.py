"""Arguments that no env can be made with are named, by dreams, their lanes and the real env alike."""

import numpy as np
import pytest
import torch
from conftest import every_task

pytestmark = [pytest.mark.usefixtures("box2d", "no_display"), pytest.mark.filterwarnings("ignore")]
DREAMS, EVERY = ("dream", "dreams"), ("dream", "dreams", "real")
WRONG = [
    (EVERY, {"device": "gpu"}, ValueError, "device must be one that torch can use here"),
    (EVERY, {"device": "meta"}, ValueError, "device must be one that torch can use here"),
    (EVERY, {"world_model": 5}, TypeError, "a world_model is given as a bundled name or a folder, got 5"),
    (EVERY, {"world_model": "no_such_model"}, ValueError, "no_such_model: no such world_model"),
    (EVERY, {"world_model": "**"}, ValueError, "no such world_model"),
    (EVERY, {"world_model": "a" * 5000}, ValueError, "no such world_model"),
    (EVERY, {"render_mode": "ansi"}, ValueError, "render_mode must be one of"),
    (DREAMS, {"sampling": "argmax"}, ValueError, "sampling must be .*argmax"),
    (DREAMS, {"sampling": None}, ValueError, "sampling must be .*None"),
    (DREAMS, {"starts": "all"}, ValueError, "starts must be .*all"),
    (("dreams",), {"autoreset_mode": "Never"}, ValueError, "Never"),
    (("dreams",), {"render_mode": "human"}, ValueError, "human"),
]


@every_task
@pytest.mark.parametrize(
    ("kind", "kwargs", "error", "message"),
    [(kind, kwargs, error, message) for kinds, kwargs, error, message in WRONG for kind in kinds],
    ids=lambda value: str(value)[:30],
)
def test_wrong_arguments_are_named(make_kind, kind, kwargs, error, message):
    with pytest.raises(error, match=message):
        make_kind(kind, **kwargs)


@pytest.mark.parametrize("kind", DREAMS)
@pytest.mark.parametrize(
    "temperature", [0, -1.0, np.nan, np.inf, "1", None, 1e300, 1e-300, 1j, [1.0], torch.tensor(1.0)], ids=repr
)
def test_temperature_is_a_number_that_float32_can_stand(make_kind, kind, temperature):
    with pytest.raises(ValueError, match=r"temperature must be a number from 0\.001 to 1000, got"):
        make_kind(kind, temperature=temperature)


@pytest.mark.parametrize("num_envs", [2.5, 2.0, "2", 0, -1, None, True])
def test_num_envs_is_a_whole_number(make_kind, num_envs):
    with pytest.raises(ValueError, match="num_envs must be a whole number of at least 1, got"):
        make_kind("dreams", num_envs=num_envs)


@pytest.mark.parametrize("steps", [2.5, "9", 0, -2, None, np.nan, np.inf])
def test_max_episode_steps_of_lanes_is_a_whole_number(make_kind, steps):
    with pytest.raises(ValueError, match=r"max_episode_steps.* must be a whole number of at least 1, got"):
        make_kind("dreams", max_episode_steps=steps)


@pytest.mark.parametrize("percent", ["0.9", None, 1.5, np.nan])
def test_lap_complete_percent_is_refused_before_carracing_reads_it(make_kind, percent):
    with pytest.raises(ValueError, match="lap_complete_percent must be a number from 0 to 1, got"):
        make_kind("real", lap_complete_percent=percent)
