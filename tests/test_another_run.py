"""The stages on another env than CarRacing: episodes, latents, how its dreams pay, and a whole small run."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ACROBOT, contents, make_world_model

from benchmarks import calibration, score, transfer
from training import collect, driving, filming, loop, selection, train_controller
from training.checkpoints import read_log
from training.latents import LatentEpisode, Sequences, reward_of
from training.presets import PRESETS
from training.rollouts import Episode, episode_files, load_task, open_frames
from training.shaping import Tremble
from training.train_rnn import Args as RnnArgs
from training.train_rnn import losses, make_starts
from wm_gym.car_racing import CAR_RACING
from wm_gym.card import card
from wm_gym.evaluate import make_lanes
from wm_gym.models.controller import Controller, ControllerConfig
from wm_gym.models.mdn_rnn import MDNRNN, MDNRNNConfig
from wm_gym.registration import env_ids, task_of
from wm_gym.reward import RewardConfig
from wm_gym.tasks import make_env
from wm_gym.world_model import WorldModel

pytestmark = [pytest.mark.usefixtures("no_display"), pytest.mark.filterwarnings("ignore")]


def collecting(out: Path, **changes) -> collect.Args:
    args = collect.Args(
        out=out, env="Acrobot-v1", frames="whole", episodes=2, burst_rate=1.0, burst_length=5, workers=1
    )
    return replace(args, max_steps=12, **changes)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two short episodes of Acrobot."""
    folder = tmp_path_factory.mktemp("acrobot") / "rollouts"
    collect.main(collecting(folder))
    return folder


# --- episodes ------------------------------------------------------------------------------------------------------


def test_an_episode_is_its_seed_and_its_exact_choices(two):
    assert load_task(two) == ACROBOT
    env = gym.make("Acrobot-v1")
    for path in episode_files(two):
        episode = Episode.load(path)
        assert (episode.actions.dtype, episode.actions.shape, episode.goal) == (np.int64, (12,), 0)
        assert len(set(episode.actions.tolist())) > 1
        assert open_frames(two, episode.seed, "whole").shape == (13, 64, 64, 3)
        env.reset(seed=episode.seed)
        assert [env.step(action)[1] for action in episode.actions] == episode.rewards.tolist()
    frames = open_frames(two, 0, "whole")
    assert (frames[0] != frames[-1]).any()  # it moves


def test_a_replay_draws_the_very_same_frames(two, tmp_path):
    copy = shutil.copytree(two, tmp_path / "rollouts")
    before = contents(copy)
    shutil.rmtree(copy / "frames-whole")
    collect.main(collect.Args(out=copy, frames="whole", replay=True, workers=1))  # the folder knows its env
    assert {name: content for name, (content, _) in contents(copy).items()} == {
        name: content for name, (content, _) in before.items()
    }


def test_a_folder_is_of_one_env(two, tmp_path):
    with pytest.raises(ValueError, match=r"holds episodes of .*Acrobot-v1.*choose another folder"):
        collect.main(collect.Args(out=two, episodes=3))
    with pytest.raises(ValueError, match=r'frames of \(500, 500\) need --frames "whole" .*got \'gauges96\''):
        collect.main(replace(collecting(tmp_path), frames="gauges96"))
    with pytest.raises(gym.error.Error, match="NoSuchEnv"):
        collect.main(replace(collecting(tmp_path), env="NoSuchEnv-v0"))
    assert not list(tmp_path.iterdir())


def test_an_env_of_a_package_is_found_in_each_process_by_the_packages_name(tmp_path):
    package = "import gymnasium\ngymnasium.register('Mine-v0', 'gymnasium.envs.classic_control:AcrobotEnv')\n"
    (tmp_path / "their_envs.py").write_text(package)
    command = [sys.executable, "-m", "training.collect", "--env", "Mine-v0", "--frames", "whole", "--max-steps", "3"]
    command += ["--episodes", "2", "--workers", "2", "--out", str(tmp_path / "rollouts")]
    paths = {"PYTHONPATH": str(tmp_path), "SDL_VIDEODRIVER": "dummy"}
    refused = subprocess.run(command, env=os.environ | paths, capture_output=True, text=True)
    assert "`Mine` doesn't exist" in refused.stderr and "environment variable WM_GYM_PACKAGES" in refused.stderr
    env = os.environ | paths | {"WM_GYM_PACKAGES": "math, their_envs"}
    subprocess.run(command, env=env, check=True, capture_output=True)
    assert [len(Episode.load(path).actions) for path in episode_files(tmp_path / "rollouts")] == [3, 3]


def test_patience_needs_an_env_that_counts(tmp_path):
    with pytest.raises(ValueError, match=r"counts no progress.*--patience 0"):
        collect.main(collecting(tmp_path, patience=5))


def test_episodes_and_latents_from_before_there_were_tasks_are_read(tmp_path):
    episode = {"seed": 3, "actions": np.zeros((2, 3), np.float32), "rewards": np.zeros(2, np.float32)}
    episode |= {"tiles": np.array([1, 2], np.int16), "track_tiles": 300, "terminated": True, "lap_finished": True}
    np.savez(tmp_path / "3.npz", **episode, driver=json.dumps({"policy": "random", "label": "random"}))
    read = Episode.load(tmp_path / "3.npz")
    assert (read.counts.tolist(), read.goal, read.finished) == ([1, 2], 300, True)
    assert load_task(tmp_path) == CAR_RACING
    with pytest.raises(ValueError, match=r"holds episodes of .*CarRacing"):
        collect.main(collecting(tmp_path))
    np.savez(tmp_path / "latent.npz", vae="abc", tiles=np.zeros(2, np.int16))
    assert LatentEpisode.encoder(tmp_path / "latent.npz") == ""  # of no V that there is: it is encoded again


# --- how dreams pay ------------------------------------------------------------------------------------------------


def latent(rewards, ended, seed=0):
    rewards = np.array(rewards, np.float32)
    mu = np.random.default_rng(seed).standard_normal((len(rewards) + 1, 4)).astype(np.float32)
    actions = np.eye(3, dtype=np.float32)[np.arange(len(rewards)) % 3]
    return LatentEpisode(seed, "toy", mu, np.full_like(mu, -9), actions, rewards, 0, ended, "random")


def test_what_each_step_and_each_end_pay_is_kept_exactly():
    """Acrobot: -1 a step, 0 for the last one of a success."""
    reward = reward_of([latent([-1, -1, 0], True), latent([-1] * 5, False)], ACROBOT)
    assert reward == RewardConfig(scale=0.0, per_step=-1.0, end=0.0, goal=None)


def test_ends_that_pay_differently_are_gains_like_all_others():
    """LunarLander: shaped rewards, and 100 or -100 at last."""
    episodes = [latent([1, 3, 100], True), latent([2, 0, -100], True), latent([1, -1], False)]
    reward = reward_of(episodes, ACROBOT)
    told = np.concatenate([episode.gains for episode in episodes])
    assert (reward.end, reward.goal) == (None, None)
    np.testing.assert_allclose([reward.per_step, reward.scale], [told.mean(), told.std()], rtol=1e-6)
    gains = np.concatenate([reward.gains(episode.gains) for episode in episodes])
    np.testing.assert_allclose(gains * reward.scale + reward.per_step, told, atol=1e-4)
    assert Sequences.of(episodes, torch.device("cpu"), reward).paid[:2].min() == 1


def test_shaped_rewards_with_one_price_of_the_end_do_not_mix():
    episodes = [latent([1, 3, -50], True), latent([2, 0], False)]
    reward = reward_of(episodes, ACROBOT)
    assert (reward.scale, reward.per_step, reward.end) == (pytest.approx(np.std([1, 3, 2, 0])), 1.5, -50)
    part = Sequences.of(episodes, torch.device("cpu"), reward)
    assert part.paid[0].tolist() == [1, 1, 0]
    assert part.ended[0].tolist() == [0, 0, 1]


def test_no_end_at_all_has_no_price():
    assert reward_of([latent([-1, -2], False)], ACROBOT).end is None


def test_the_gain_that_is_paid_is_what_the_memory_learns():
    torch.manual_seed(0)
    reward = RewardConfig(scale=2.0, per_step=-1.0, end=7.0)
    memory = MDNRNN(MDNRNNConfig(latent_size=4, action_size=3, hidden_size=8, mixtures=2, counts=False))
    told = [3.0, -5.0, 7.0]
    part = Sequences.of([latent(told, True)], torch.device("cpu"), reward)
    state = memory.initial_state(1)
    each, _ = losses(memory, part.mu, part, slice(0, 3), state)
    gain = memory.predict(memory.unroll(part.mu[:, :3], part.actions, state)[0]).gain[0]
    expected = 0.5 * ((gain[0] - 2.0) ** 2 + (gain[1] + 2.0) ** 2) / 3  # the end pays its own price
    torch.testing.assert_close(each[1], expected)


def test_starts_of_what_nothing_counts_have_gained_nothing():
    episodes = [latent([-1] * 9, seed % 2 == 0, seed) for seed in range(4)]
    starts = make_starts(episodes, [], RnnArgs(starts=4, window=3), None)
    assert not starts.gained.any()
    assert (starts.actions.sum(-1)[starts.length == 3] == 1).all()  # one-hot


# --- what is sought in dreams --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A world model of Acrobot whose end is likely after action 2 and never after the others."""
    model = make_world_model("acrobot")
    with torch.no_grad():
        memory = model.memory
        memory.lstm.weight_ih_l0.mul_(0.1)
        memory.lstm.weight_hh_l0.mul_(0.1)
        for gate, sign in ((0, 1), (2, 1), (3, 1)):  # h[0] follows the action: open gates, a cell that tells it
            memory.lstm.weight_ih_l0[gate * 256, Z_AND_ACTION] = sign * torch.tensor([-4.0, -4.0, 4.0])
        memory.lstm.bias_ih_l0[256] = -9  # and forgets
        memory.heads.weight[-1] = 0
        memory.heads.weight[-1, 0], memory.heads.bias[-1] = 12.0, -6.0
    folder = tmp_path_factory.mktemp("end_after_2") / "world_model"
    model.save(folder)
    return str(folder)


Z_AND_ACTION = slice(32, 35)


def test_cma_es_finds_the_choice_that_ends_it(folder, tmp_path):
    args = train_controller.Args(
        world_model=folder, out=tmp_path, generations=6, population=12, rollouts=4, max_steps=30
    )
    train_controller.main(replace(args, sigma=0.5, track=False))
    controller = Controller.from_pretrained(tmp_path / "controller")
    assert controller.config.discrete
    config = ControllerConfig.for_spaces(gym.spaces.Box(-np.inf, np.inf, (288,)), gym.spaces.Discrete(3))
    members = np.stack([np.zeros(config.parameters), controller.parameters])
    dreams = make_lanes(env_ids(folder)[0], 20, world_model=folder, max_episode_steps=30)
    idle, found = train_controller.evaluate(dreams, members, np.arange(10), config)
    assert controller.config.training["env"] == "DreamAcrobot-v0"
    assert idle < -25 < -5 < found
    slipping = train_controller.hard_dreams(folder, members, config, 30)
    assert idle < slipping[0] - 5  # a slip in ten is the choice that ends it


def test_a_slipping_hand_takes_any_choice_as_often_as_it_should(folder):
    dreams = gym.make_vec("DreamAcrobot-v0", 4000, world_model=folder)
    lanes, still = Tremble(dreams, 0.3, alike=2000), np.full(4000, 1)
    actions = np.stack([lanes.actions(still) for _ in range(20)])
    assert np.array_equal(actions[:, :2000], actions[:, 2000:])
    assert set(np.unique(actions)) == {0, 1, 2}
    assert (actions != 1).mean() == pytest.approx(0.3 * 2 / 3, rel=0.05)
    assert (Tremble(dreams, 0.0, alike=2000).actions(still) == 1).all()
    lanes.close()


# --- a whole run ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A finished run of the preset, with far less of everything: its settings, and what it returned."""
    preset, run = PRESETS["acrobot"], tmp_path_factory.mktemp("small") / "run"
    args = replace(
        preset,
        run=run,
        rounds=1,
        random_episodes=4,
        random_steps=20,
        sought=2,
        candidates=2,
        own_episodes=2,
        validation_tracks=2,
        finalists=1,
        max_steps=12,
        real_generations=1,
        workers=1,
        track=False,
        vae=replace(preset.vae, epochs=1, batch=16),
        rnn=replace(preset.rnn, epochs=2, held_out=3, starts=8),
        controller=replace(preset.controller, generations=1, population=4, rollouts=1),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDL_VIDEODRIVER", "dummy")
        patch.setattr(filming, "STRIP_START", 2)
        for module in (loop, selection):
            patch.setattr(module, "VALIDATION_SEEDS", range(1_000_000, 1_000_003))
        yield args, loop.main(args)


def test_a_small_run_of_the_preset(small_run):
    args, best = small_run
    assert best["real"]["mean"] == -12 and best["real"]["failed"] == best["real"]["finished"] == 0
    assert best["alarms"] == [] and best["real"]["episodes"] == 3
    model = WorldModel.load(args.run / "best" / "world_model")
    assert model.config.task == ACROBOT
    assert model.config.reward == RewardConfig(scale=0.0, per_step=-1.0)  # none of these ended
    assert model.config.training["episodes"] == {"random": 4}
    for flag in ("--random-steps 20", "--max-steps 12", "--controller.max-steps 12"):
        assert f" {flag} " in model.config.training["command"] + " "
    controller = Controller.from_pretrained(args.run / "controller-real" / "controller")
    assert controller.config.training["env"] == "LatentAcrobot-v0"
    (line,) = read_log(args.run / "controller-real" / "log.jsonl")
    assert line["frames"] == 4 * (12 + 1)  # the run's limit is the controller's, too
    assert (args.run / "rounds" / "000" / "drive.mp4").is_file()
    before = {name: content for name, (content, _) in contents(args.run).items() if not name.endswith(".png")}
    assert loop.main(args) == best  # nothing is left to do
    after = contents(args.run)
    assert {name: after[name][0] for name in before} == before


def test_the_benchmarks_of_a_small_run(small_run, tmp_path, monkeypatch):
    best = small_run[0].run / "best"
    world_model, controller = str(best / "world_model"), str(best / "controller")
    for module in (driving, transfer):
        monkeypatch.setattr(module, "task_of", lambda name: replace(task_of(name), max_episode_steps=12))
    for module in (driving, calibration):  # short episodes, and so no workers, which would not know
        monkeypatch.setattr(module, "map_jobs", lambda function, jobs, *_: (function(job) for job in jobs))
    monkeypatch.setattr(score, "TEST_SEEDS", range(2_000_000, 2_000_002))
    score.main(score.Args(policy=controller, world_model=world_model, out=tmp_path / "score.json", workers=1))
    with pytest.raises(ValueError, match=r"bundled controller's score: give .*controller a file, --out"):
        score.main(score.Args(policy=controller, world_model=world_model))
    scored = json.loads((tmp_path / "score.json").read_text())
    flags = f"--policy {controller} --world-model {world_model} --out {tmp_path / 'score.json'}"
    assert scored["command"] == f"python -m benchmarks.score {flags}"
    configs = WorldModel.load(best / "world_model").config, Controller.from_pretrained(controller).config
    assert f"`{scored['command']}`): -12" in card("mine", *configs, tmp_path)
    assert (scored["env"], scored["real"]["mean"], scored["real"]["share_-100"]) == ("LatentAcrobot-v0", -12, 1)
    simple, chosen = transfer.simple_policies, ("random", "constant: action 2")
    monkeypatch.setattr(transfer, "simple_policies", lambda env: {name: simple(env)[name] for name in chosen})
    monkeypatch.setattr(calibration, "make_env", lambda task: gym.wrappers.TimeLimit(make_env(task), 60))
    out = tmp_path / "transfer.json"
    transfer.main(
        transfer.Args(world_model=world_model, policies=(controller,), tracks=2, drives=1, out=out, workers=1)
    )
    content = json.loads(out.read_text())
    assert [line["policy"] for line in content["policies"]] == [*chosen, controller]
    assert content["calibration"]["end"]["ends"] == 0
    assert "road_real" not in content["open_loop"]["horizons"][0]
    assert out.with_suffix(".worst.png").stat().st_size > 1000
