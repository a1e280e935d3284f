"""The SB3 adapter keeps Stable-Baselines3's contract, lane by lane, as its own DummyVecEnv does over single envs."""

from copy import deepcopy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize, VecVideoRecorder

import wm_gym
from wm_gym.actions import rescale
from wm_gym.policies import RescaledPolicy
from wm_gym.sb3 import SB3VecEnv, make_sb3_vec

DREAM, LANES, STEPS = "DreamCarRacing-v0", 3, 40


@pytest.fixture
def dummy(world_model_folder):
    """SB3's own VecEnv over single dreams, each of 7 steps."""

    def make():
        return gym.make(DREAM, world_model=world_model_folder, max_episode_steps=7, render_mode="rgb_array")

    env = DummyVecEnv([make] * LANES)
    yield env
    env.close()


@pytest.fixture(params=["batched, DISABLED", "batched, SAME_STEP", "single, DISABLED", "single, SAME_STEP"])
def adapted(request, world_model_folder):
    """The adapter over the same dreams, in one batch or one by one."""
    kwargs = {"world_model": world_model_folder, "render_mode": "rgb_array"}
    mode = AutoresetMode[request.param.split(", ")[1]]
    if request.param.startswith("batched"):
        envs = gym.make_vec(DREAM, LANES, autoreset_mode=mode, max_episode_steps=7, **kwargs)
    else:
        envs = SyncVectorEnv([lambda: gym.make(DREAM, max_episode_steps=7, **kwargs)] * LANES, autoreset_mode=mode)
    env = SB3VecEnv(envs, rescale_actions=False)
    yield env
    env.close()


def test_every_lane_is_what_dummy_vec_env_gives(dummy, adapted):
    dummy.seed(5)
    adapted.seed(5)
    expected, got = dummy.reset(), adapted.reset()
    np.testing.assert_allclose(got, expected, atol=1e-5)
    dummy.action_space.seed(0)
    for _ in range(STEPS):
        actions = np.stack([dummy.action_space.sample() for _ in range(LANES)])
        (expected, rewards, dones, infos), (got, *its) = dummy.step(actions), adapted.step(actions)
        np.testing.assert_allclose(got, expected, atol=1e-3)
        np.testing.assert_allclose(its[0], rewards, atol=1e-3)
        assert its[0].dtype == np.float32
        np.testing.assert_array_equal(its[1], dones)
        for mine, its_info in zip(its[2], infos, strict=True):
            assert mine.keys() == its_info.keys()
            for key, value in its_info.items():
                if key == "terminal_observation":
                    np.testing.assert_allclose(mine[key], value, atol=1e-3)
                else:
                    assert mine[key] == value
                    assert type(mine[key]) is type(value) or isinstance(mine[key], np.bool_)


def test_what_was_returned_is_never_overwritten(adapted):
    adapted.seed(1)
    actions = np.zeros((LANES, 3), np.float32)
    returned, last = [adapted.reset()], []
    for _ in range(8):  # of episodes of seven steps at most
        observation, _, _, infos = adapted.step(actions)
        returned.append(observation)
        last += [info["terminal_observation"] for info in infos if "terminal_observation" in info]
    copies = [each.copy() for each in (*returned, *last)]
    adapted.step(actions)
    assert last
    for each, copy in zip((*returned, *last), copies, strict=True):
        np.testing.assert_array_equal(each, copy)
    assert not any(np.shares_memory(one, other) for one in last for other in returned)


def test_the_time_limit_and_the_end_are_told_apart(world_model_folder):
    env = make_sb3_vec(DREAM, 2, world_model=world_model_folder, max_episode_steps=5, starts="any")
    env.seed(0)
    env.reset()
    env.envs.dream.gained[0] = env.envs.dream.reward.goal  # the first lane's lap is finished
    *_, dones, infos = env.step(np.zeros((2, 3), np.float32))
    assert dones.tolist() == [True, False]
    assert not infos[0]["TimeLimit.truncated"] and infos[0]["lap_finished"]
    for _ in range(4):
        *_, dones, infos = env.step(np.zeros((2, 3), np.float32))
    assert dones[1] and infos[1]["TimeLimit.truncated"]


def test_seeds_and_options_are_used_once(adapted, dummy):
    for env in (adapted, dummy):
        env.seed(7)
        env.set_options({"start": 2})
    first, again = adapted.reset(), adapted.reset()
    np.testing.assert_allclose(first, dummy.reset(), atol=1e-5)
    assert not np.allclose(first, again)


def test_options_of_single_lanes_are_refused(adapted):
    adapted.set_options([{"start": 0}, {"start": 1}, {"start": 2}])
    with pytest.raises(ValueError, match="share their reset options"):
        adapted.reset()


def test_a_state_is_an_option_that_all_lanes_share(adapted, world_model_folder):
    dream = gym.make(DREAM, world_model=world_model_folder)
    observation, _ = dream.reset(seed=5)
    state = dream.unwrapped.get_state()
    adapted.set_options({"state": state})
    np.testing.assert_array_equal(adapted.reset(), [observation] * LANES)
    adapted.set_options([{"state": deepcopy(state)} for _ in range(3)])
    with pytest.raises(ValueError, match="share their reset options"):
        adapted.reset()


def test_a_vector_env_that_resets_a_step_late_is_refused(world_model_folder):
    with pytest.raises(ValueError, match='autoreset_mode="SAME_STEP"'):
        SB3VecEnv(gym.make_vec(DREAM, 2, world_model=world_model_folder))


def test_a_vector_env_that_overwrites_observations_is_refused(world_model_folder):
    lanes = [lambda: gym.make(DREAM, world_model=world_model_folder)] * 2
    with pytest.raises(ValueError, match="copy=True"):
        SB3VecEnv(SyncVectorEnv(lanes, copy=False, autoreset_mode=AutoresetMode.DISABLED))


def test_actions_are_rescaled_to_the_envs_own_box(world_model_folder):
    plain, scaled = (make_sb3_vec(DREAM, 2, each, world_model=world_model_folder) for each in (False, True))
    assert plain.action_space == plain.envs.single_action_space
    assert scaled.action_space == gym.spaces.Box(-1, 1, (3,))
    actions = np.array([[-1, -1, -1], [0.5, 0.5, 1]], np.float32)
    expected = np.array([[-1, 0, 0], [0.5, 0.75, 1]], np.float32)
    for env in (plain, scaled):
        env.seed(0)
        env.reset()
    np.testing.assert_array_equal(plain.step(expected)[0], scaled.step(actions)[0])


def test_attributes_and_methods(adapted, dummy):
    adapted.reset()
    assert adapted.get_attr("render_mode") == dummy.get_attr("render_mode") == ["rgb_array"] * LANES
    assert adapted.get_attr("metadata", indices=[1])[0]["render_fps"] == 50
    assert len(adapted.env_method("get_state")) == LANES
    assert adapted.env_is_wrapped(Monitor) == [False] * LANES
    wrapped = SB3VecEnv(VectorWrapper(adapted.envs), rescale_actions=False)
    wrapped.set_attr("temperature", 2.5)
    assert adapted.get_attr("temperature") == wrapped.get_attr("temperature") == [2.5] * LANES
    assert len(wrapped.env_method("get_state")) == LANES
    adapted.set_attr("note", "kept")
    assert adapted.get_attr("note", indices=2) == ["kept"]
    with pytest.raises(AttributeError):
        adapted.get_attr("no such thing")


def test_frames_of_all_lanes(adapted):
    adapted.reset()
    frames = adapted.get_images()
    assert [frame.dtype for frame in frames] == [np.uint8] * LANES
    assert adapted.render("rgb_array").ndim == 3


def test_sb3s_wrappers_evaluation_and_a_saved_policy(world_model_folder, tmp_path):
    kwargs = {"world_model": world_model_folder, "max_episode_steps": 12}
    env = VecNormalize(VecMonitor(make_sb3_vec(DREAM, 8, **kwargs)), norm_obs=False)
    agent = PPO("MlpPolicy", env, n_steps=8, batch_size=16, n_epochs=1, seed=0, device="cpu").learn(128)
    assert {episode["l"] for episode in agent.ep_info_buffer} <= set(range(1, 13))
    mean, _ = evaluate_policy(agent, VecMonitor(make_sb3_vec(DREAM, 2, **kwargs)), n_eval_episodes=4)
    assert np.isfinite(mean)

    agent.save(tmp_path / "ppo_dream.zip")
    dreams = gym.make(DREAM, **kwargs)
    policy = wm_gym.load_policy(tmp_path / "ppo_dream.zip", dreams)
    observation, _ = dreams.reset(seed=3)
    action = policy.predict(observation, deterministic=True)[0]
    assert dreams.action_space.contains(action)
    expected = agent.predict(observation, deterministic=True)[0]
    np.testing.assert_allclose(action, rescale(expected, dreams.action_space))


def test_agents_learn_on_bootstrapped_time_limits(world_model_folder):
    env = make_sb3_vec(DREAM, 4, world_model=world_model_folder, max_episode_steps=3)
    paid, steps = [], env.step

    def step(actions):
        observation, rewards, dones, infos = steps(actions)
        paid.append((rewards.copy(), infos))  # A2C adds to the rewards
        return observation, rewards, dones, infos

    env.step = step
    cut = []

    class Spy(A2C):
        def train(self):
            for (rewards, infos), learnt in zip(paid, self.rollout_buffer.rewards, strict=True):
                for reward, info, its in zip(rewards, infos, learnt, strict=True):
                    after = 0.0
                    if info["TimeLimit.truncated"]:
                        last, _ = self.policy.obs_to_tensor(info["terminal_observation"])
                        after = self.policy.predict_values(last).item()
                        cut.append(after)
                    assert its == pytest.approx(reward + self.gamma * after, abs=1e-5)
            super().train()

    Spy("MlpPolicy", env, n_steps=5, seed=0, device="cpu").learn(20)
    assert len(cut) >= 4 and np.abs(cut).min() > 1e-3


def test_videos(world_model_folder, tmp_path):
    env = make_sb3_vec(DREAM, 2, world_model=world_model_folder, render_mode="rgb_array")
    recorder = VecVideoRecorder(env, str(tmp_path), record_video_trigger=lambda step: step == 0, video_length=5)
    recorder.reset()
    for _ in range(6):
        recorder.step(np.zeros((2, 3), np.float32))
    recorder.close()
    assert list(tmp_path.glob("*.mp4"))


def test_the_real_env_in_processes(world_model_folder):
    env = make_sb3_vec("LatentCarRacing-v0", 2, world_model=world_model_folder, max_episode_steps=4)
    env.seed(1_000_000)
    returned = [env.reset()]
    assert returned[0].shape == (2, 288)
    for _ in range(4):
        observation, _, dones, infos = env.step(np.zeros((2, 3), np.float32))
        returned.append(observation)
    assert dones.all() and all(info["TimeLimit.truncated"] for info in infos)
    last = np.stack([info["terminal_observation"] for info in infos])
    assert last[:, 32:].any(axis=1).all() and not observation[:, 32:].any()  # h, before the reset and after
    copies = [each.copy() for each in (*returned, last)]
    env.step(np.ones((2, 3), np.float32))
    for each, copy in zip((*returned, last), copies, strict=True):
        np.testing.assert_array_equal(each, copy)
    assert env.get_attr("render_mode") == [None, None]
    env.close()


def test_an_agent_as_it_was_trained_drives_in_a_rollout(world_model_folder):
    kwargs = {"world_model": world_model_folder, "max_episode_steps": 9}
    agent = PPO("MlpPolicy", make_sb3_vec(DREAM, 2, **kwargs), n_steps=16, batch_size=16, n_epochs=1, seed=0)
    dream = gym.make(DREAM, **kwargs)
    driven = [episode.score for episode in wm_gym.rollout(dream, agent, [3])]
    mapped = [episode.score for episode in wm_gym.rollout(dream, RescaledPolicy(agent, dream.action_space), [3])]
    assert driven == mapped
    normalized = VecNormalize(make_sb3_vec(DREAM, 2, **kwargs))
    with pytest.raises(ValueError, match=r"learnt from normalised observations.*norm_obs=False"):
        next(wm_gym.rollout(dream, PPO("MlpPolicy", normalized), [3]))
    with pytest.raises(ValueError, match="the policy given was trained on"):
        next(wm_gym.rollout(gym.make("Pendulum-v1"), agent, [3]))


def test_episodes_are_monitored_and_videos_as_fast_as_the_env(world_model_folder):
    envs = make_sb3_vec(DREAM, 2, world_model=world_model_folder, max_episode_steps=9)
    agent = PPO("MlpPolicy", envs, n_steps=16, batch_size=16, n_epochs=1, seed=0).learn(32)
    assert len(agent.ep_info_buffer) > 0 and all(episode["l"] <= 9 for episode in agent.ep_info_buffer)
    assert envs.unwrapped.metadata["render_fps"] == 50  # where a `VecVideoRecorder` looks


def test_temperature_and_sampling_of_all_lanes_can_be_changed(world_model_folder):
    envs = make_sb3_vec(DREAM, 2, world_model=world_model_folder)
    envs.set_attr("temperature", 3.0)
    assert envs.get_attr("temperature") == [3.0, 3.0] and envs.unwrapped.envs.dream.temperature == 3.0
    with pytest.raises(ValueError, match="temperature"):
        envs.set_attr("temperature", 0.0)
    single = gym.make(DREAM, world_model=world_model_folder)
    single.set_wrapper_attr("temperature", 2.0)
    assert single.unwrapped.dream.temperature == 2.0
    envs.set_attr("sampling", "mode")
    single.set_wrapper_attr("sampling", "mode")
    assert {single.unwrapped.dream.sampling, envs.unwrapped.envs.dream.sampling} == {"mode"}
    with pytest.raises(ValueError, match="sampling must be one of"):
        envs.set_attr("sampling", "most")
