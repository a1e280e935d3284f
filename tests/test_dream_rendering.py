"""What a dream shows, when it is asked to."""

import re

import numpy as np
import pytest
from conftest import COAST, every_task, some_actions, trace
from gymnasium.wrappers import RecordVideo

from wm_gym.models.vae import VAE

pytestmark = pytest.mark.usefixtures("no_display")


@pytest.fixture
def decoded(monkeypatch):
    """A list that grows by the number of frames whenever the VAE decodes."""
    calls, decode = [], VAE.decode
    monkeypatch.setattr(VAE, "decode", lambda self, z: calls.append(len(z)) or decode(self, z))
    return calls


def test_rgb_array_shows_the_present_latent_when_asked(make, decoded):
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    trace(env, some_actions(10))
    assert decoded == []
    frame = env.render()
    assert decoded == [1]
    assert frame.dtype == np.uint8
    assert frame.shape == (4 * 84, 4 * 96, 3)
    assert np.array_equal(env.render(), frame)
    kept = frame.copy()
    env.step(COAST)
    assert not np.array_equal(env.render(), kept)
    assert np.array_equal(frame, kept)


@every_task
def test_rendering_disturbs_nothing(make, random_actions):
    drawn, plain = make(render_mode="rgb_array"), make()
    drawn.reset(seed=0)
    plain.reset(seed=0)
    for action in random_actions(10):
        drawn.render()
        assert trace(drawn, [action]) == trace(plain, [action])


@every_task
def test_without_a_render_mode_nothing_is_decoded(make, decoded):
    env = make().unwrapped
    env.reset(seed=0)
    with pytest.warns(UserWarning, match=re.escape('render_mode="rgb_array"')):
        assert env.render() is None
    assert decoded == []


@every_task
def test_human_mode_shows_each_step(make, decoded, coast):
    env = make(render_mode="human", sampling="mode")
    env.reset(seed=0)
    for _ in range(3):
        env.step(coast)
    assert decoded == [1] * 4
    assert env.render() is None
    env.close()
    env.close()


@every_task
@pytest.mark.parametrize("render_mode", [None, "rgb_array", "human"])
def test_close_may_come_twice_or_before_reset(make, render_mode):
    env = make(render_mode=render_mode)
    env.close()
    env.close()


@every_task
@pytest.mark.filterwarnings("ignore")
def test_record_video(make, tmp_path, coast):
    env = RecordVideo(make(render_mode="rgb_array", max_episode_steps=5), str(tmp_path), disable_logger=True)
    env.reset(seed=0)
    while not any(env.step(coast)[2:4]):
        pass
    env.close()
    (video,) = tmp_path.glob("*.mp4")
    assert video.stat().st_size > 0


def test_a_window_outlives_what_others_do_to_the_display(make):
    env, other = make(render_mode="human"), make(render_mode="human")
    pygame = pytest.importorskip("pygame")
    for each in (env, other):
        each.reset(seed=0)
        each.step(COAST)
    other.close()  # closes what is the process's only window
    env.step(COAST)
    pygame.display.quit()  # as envs of gymnasium do
    env.step(COAST)
    pygame.display.set_mode((50, 40))
    env.step(COAST)
    assert pygame.display.get_surface().get_size() == (4 * 96, 4 * 84)
    env.close()
    assert pygame.display.get_surface() is None
