"""The stages of training, each alone: what they write, how they go on, and what they refuse."""

import shutil
from dataclasses import replace
from unittest.mock import Mock

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import MEMORIES, make_world_model

from training import collect, encode, gradient, train_controller, train_rnn, train_vae
from training.checkpoints import load_checkpoint, read_log
from training.latents import LatentEpisode
from training.rollouts import Driver, Episode, episode_files, frames_file, open_frames, save_frames
from wm_gym.evaluate import make_lanes
from wm_gym.models.controller import Controller, ControllerConfig
from wm_gym.models.mdn_rnn import MDNRNNConfig
from wm_gym.models.vae import VAEConfig
from wm_gym.world_model import Starts, WorldModel

FRAMES = "gauges96"
SMALL = VAEConfig(channels=(4, 8, 8, 8))


def contents(folder):
    """What every file of a folder holds and when it was written."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def collecting(out, **changes):
    return replace(collect.Args(out=out, episodes=2, burst_rate=0.2, max_steps=30), **changes)


def training(stage, run, out, **changes):
    """Settings of a small V or M on a folder that holds rollouts and latents."""
    args = {
        train_vae: train_vae.Args(rollouts=run / "rollouts", batch=16, model=SMALL, device="cpu"),
        train_rnn: train_rnn.Args(
            latents=run / "latents", batch=2, chunk=8, held_out=3, starts=8, window=5, device="cpu"
        ),
    }[stage]
    return replace(args, out=out, epochs=1, **changes) if "epochs" not in changes else replace(args, out=out, **changes)


def encoding(run, vae="vae", out="latents"):
    return encode.Args(run / "rollouts", run / vae, run / out, device="cpu")


@pytest.fixture(scope="module")
def drives(tmp_path_factory):
    """Two short drives of the real CarRacing."""
    folder = tmp_path_factory.mktemp("drives") / "rollouts"
    collect.main(collecting(folder))
    return folder


@pytest.fixture
def own_drives(drives, tmp_path):
    """A copy of the drives, to spoil."""
    return shutil.copytree(drives, tmp_path / "rollouts")


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A run of three made-up episodes of noise, the last a failure, encoded by a V of one epoch."""
    run, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for seed, steps in enumerate((20, 25, 17)):
        save_frames(run / "rollouts", seed, FRAMES, rng.integers(0, 256, (steps + 1, 64, 64, 3), np.uint8))
        Episode(
            seed=seed,
            actions=rng.uniform([-1, 0, 0], [1, 1, 1], (steps, 3)).astype(np.float32),
            rewards=np.zeros(steps, np.float32),
            tiles=rng.integers(0, 3, steps).astype(np.int16),
            track_tiles=300,
            terminated=seed == 2,
            lap_finished=False,
            driver=Driver("random", "random"),
        ).save(run / "rollouts")
    train_vae.main(training(train_vae, run, run / "vae"))
    encode.main(encoding(run))
    return run


@pytest.fixture(scope="module")
def encoded(drives, tmp_path_factory):
    """The drives encoded by a V that was trained on them."""
    run = tmp_path_factory.mktemp("encoded")
    shutil.copytree(drives, run / "rollouts")
    train_vae.main(training(train_vae, run, run / "vae"))
    encode.main(encoding(run))
    return run


@pytest.mark.parametrize("kind", MEMORIES)
def test_an_untrained_memory_is_a_world_model_with_rare_ends(kind, encoded, tmp_path):
    model = WorldModel.load(train_rnn.main(training(train_rnn, encoded, tmp_path, epochs=0, memory=kind)))
    assert model.config.training["memory_epochs"] == 0
    assert (model.memory.heads.bias[..., -1] == train_rnn.RARE).all()
    h = torch.randn(100, model.memory.config.hidden_size)
    assert model.memory.predict(h).end_logit.sigmoid().max() < 0.01


# --- collect -------------------------------------------------------------------------------------------------------


def test_collect_writes_episodes_and_their_frames(drives):
    episodes = [Episode.load(path) for path in episode_files(drives)]
    assert [episode.seed for episode in episodes] == [0, 1]
    for episode in episodes:
        assert episode.actions.shape == (30, 3)
        assert episode.rewards.shape == episode.tiles.shape == (30,)
        assert open_frames(drives, episode.seed, FRAMES).shape == (31, 64, 64, 3)
        assert episode.driver == Driver("random", "random", burst_rate=0.2)
        expected = 1000 / episode.track_tiles * episode.tiles - 0.1  # reset itself visits none
        np.testing.assert_allclose(episode.rewards, expected, rtol=1e-4)
    assert not np.array_equal(episodes[0].actions, episodes[1].actions)


def test_the_same_arguments_drive_the_same_whatever_the_number_of_workers(drives, tmp_path):
    collect.main(collecting(tmp_path, workers=1))
    for path in episode_files(drives):
        mine, its = Episode.load(path), Episode.load(tmp_path / path.name)
        for array in ("actions", "rewards", "tiles"):
            assert getattr(mine, array).tobytes() == getattr(its, array).tobytes()
        assert (
            frames_file(drives, mine.seed, FRAMES).read_bytes() == frames_file(tmp_path, mine.seed, FRAMES).read_bytes()
        )


def test_collect_fills_a_folder_up_and_keeps_what_is_finished(own_drives):
    before = contents(own_drives)
    (own_drives / "0.npz").unlink()  # as if it had been killed before the first episode was finished
    assert sorted(episode.seed for episode in collect.main(collecting(own_drives, episodes=3))) == [0, 2]
    after = contents(own_drives)
    assert {name for name in before if after[name] != before[name]} <= {"0.npz", f"frames-{FRAMES}/0.npy"}
    assert {name: after[name][0] for name in before} == {name: content for name, (content, _) in before.items()}
    assert collect.main(collecting(own_drives, episodes=3)) == []
    assert contents(own_drives) == after


def test_a_replay_draws_the_very_same_frames(own_drives):
    before = contents(own_drives)
    shutil.rmtree(own_drives / f"frames-{FRAMES}")
    collect.main(collecting(own_drives, replay=True))
    after = contents(own_drives)
    assert {name: content for name, (content, _) in after.items()} == {
        name: content for name, (content, _) in before.items()
    }
    assert all(after[name] == before[name] for name in ("0.npz", "1.npz"))


def test_a_replay_that_earns_other_rewards_is_refused(own_drives):
    frames_file(own_drives, 1, FRAMES).unlink()
    episode = Episode.load(own_drives / "1.npz")
    replace(episode, rewards=episode.rewards + np.float32(0.01)).save(own_drives)
    with pytest.raises(RuntimeError, match=r"1\.npz.*rewards"):
        collect.main(collecting(own_drives, replay=True))
    assert not frames_file(own_drives, 1, FRAMES).exists()


def test_what_a_worker_raises_is_reported(own_drives, tmp_path):
    before = contents(own_drives)
    Controller(config=ControllerConfig(observation_size=5)).save(tmp_path / "narrow")
    with pytest.raises(ValueError, match="maps 5 observations"):
        collect.main(collecting(own_drives, episodes=3, policy=str(tmp_path / "narrow")))
    with pytest.raises(ValueError, match="nowhere"):
        collect.main(collecting(own_drives, episodes=3, policy=str(own_drives / "nowhere")))
    assert contents(own_drives) == before


# --- V and M -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "how"),
    [(train_vae, {}), *((train_rnn, {"memory": kind}) for kind in MEMORIES)],
    ids=["vae", *MEMORIES],
)
def test_stopped_and_gone_on_with_it_gives_the_weights_of_one_run(stage, how, noise, tmp_path, monkeypatch):
    stage.main(training(stage, noise, tmp_path / "straight", epochs=3, **how))
    with monkeypatch.context() as patch:
        # the second epoch is logged, but not kept
        save = Mock(side_effect=[stage.save_checkpoint, KeyboardInterrupt])
        patch.setattr(stage, "save_checkpoint", lambda *args: save()(*args))
        with pytest.raises(KeyboardInterrupt):
            stage.main(training(stage, noise, tmp_path / "stopped", epochs=3, **how))
    stage.main(training(stage, noise, tmp_path / "stopped", epochs=3, **how))
    assert read_log(tmp_path / "straight/log.jsonl") == read_log(tmp_path / "stopped/log.jsonl")
    straight, stopped = (load_checkpoint(tmp_path / run / "checkpoint.pt") for run in ("straight", "stopped"))
    assert straight["model"].keys() == stopped["model"].keys()
    for name, tensor in straight["model"].items():
        assert torch.equal(tensor, stopped["model"][name]), name


@pytest.mark.parametrize("stage", [train_vae, train_rnn], ids=["vae", "rnn"])
def test_a_finished_stage_is_left_alone_and_goes_on_when_asked_for_more(stage, noise, tmp_path):
    stage.main(training(stage, noise, tmp_path))
    before = contents(tmp_path)
    stage.main(training(stage, noise, tmp_path))
    after = contents(tmp_path)
    assert after["checkpoint.pt"] == before["checkpoint.pt"]
    assert after["log.jsonl"] == before["log.jsonl"]
    stage.main(training(stage, noise, tmp_path, epochs=2))
    assert [line["epoch"] for line in read_log(tmp_path / "log.jsonl")] == [1, 2]
    assert load_checkpoint(tmp_path / "checkpoint.pt")["epoch"] == 2


def test_the_decoders_own_epochs_move_no_latent(noise, tmp_path):
    train_vae.main(training(train_vae, noise, tmp_path))
    before = load_checkpoint(tmp_path / "checkpoint.pt")["model"]
    train_vae.main(training(train_vae, noise, tmp_path, decoder_epochs=1))
    after = load_checkpoint(tmp_path / "checkpoint.pt")["model"]
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor) == (not name.startswith("decoder")), name


@pytest.mark.parametrize(
    ("stage", "model"),
    [(train_vae, VAEConfig(channels=(8, 8, 8, 8))), (train_rnn, MDNRNNConfig(hidden_size=64))],
    ids=["vae", "rnn"],
)
def test_a_checkpoint_of_other_sizes_or_another_stage_is_refused(stage, model, noise, tmp_path):
    stage.main(training(stage, noise, tmp_path / "own"))
    with pytest.raises(RuntimeError, match="size mismatch"):
        stage.main(training(stage, noise, tmp_path / "own", model=model))
    other = train_rnn if stage is train_vae else train_vae
    other.main(training(other, noise, tmp_path / "other"))
    with pytest.raises(RuntimeError, match="Missing key"):
        stage.main(training(stage, noise, tmp_path / "other"))


def test_a_checkpoint_of_another_memory_is_refused(noise, tmp_path):
    train_rnn.main(training(train_rnn, noise, tmp_path))
    with pytest.raises(RuntimeError, match="Missing key"):
        train_rnn.main(training(train_rnn, noise, tmp_path, memory="ensemble"))


def test_a_stage_names_the_one_that_must_run_before_it(noise, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"training\.collect"):
        train_vae.main(training(train_vae, tmp_path, tmp_path / "vae"))
    with pytest.raises(FileNotFoundError, match="stage before"):
        encode.main(encoding(tmp_path))
    shutil.copytree(noise / "rollouts", tmp_path / "rollouts")
    shutil.rmtree(tmp_path / "rollouts" / f"frames-{FRAMES}")
    with pytest.raises(FileNotFoundError, match="--replay"):
        train_vae.main(training(train_vae, tmp_path, tmp_path / "vae"))


def test_latents_of_another_v_are_refused_and_encoded_again(noise, tmp_path):
    run = shutil.copytree(noise, tmp_path / "run")
    first = contents(run / "latents")
    encode.main(encoding(run))
    again = contents(run / "latents")
    assert [name for name in first if again[name] != first[name]] == ["vae.pt"]

    train_vae.main(training(train_vae, run, run / "another", seed=1))
    encode.main(encoding(run, vae="another", out="others"))
    shutil.copy(run / "others" / "vae.pt", run / "latents" / "vae.pt")
    with pytest.raises(ValueError, match=r"another V.*training\.encode"):
        train_rnn.main(training(train_rnn, run, run / "rnn"))

    encode.main(encoding(run, vae="another"))
    for path in episode_files(run / "latents"):
        mine, its = LatentEpisode.load(path), LatentEpisode.load(run / "others" / path.name)
        assert np.array_equal(mine.mu, its.mu)
    train_rnn.main(training(train_rnn, run, run / "rnn"))


@pytest.mark.parametrize("kind", MEMORIES)
def test_the_real_env_shows_the_z_and_h_that_training_saw(kind, encoded, tmp_path):
    folder = train_rnn.main(training(train_rnn, encoded, tmp_path, latent="mean", memory=kind))
    memory = WorldModel.from_pretrained(folder).memory
    env = gym.make("LatentCarRacing-v0", world_model=str(folder))
    for path in episode_files(encoded / "rollouts"):
        episode, latents = Episode.load(path), LatentEpisode.load(encoded / "latents" / path.name)
        observations, rewards = [env.reset(seed=episode.seed)[0]], []
        for action in episode.actions:
            observation, reward, *_ = env.step(action)
            observations.append(observation)
            rewards.append(reward)
        z, h = np.split(np.stack(observations), [32], axis=1)
        assert np.array_equal(np.float32(rewards), episode.rewards)
        np.testing.assert_allclose(z, latents.mu, atol=1e-5)
        assert np.ptp(z, axis=0).max() > 1e-3  # frames do differ

        inputs = (torch.from_numpy(array)[None] for array in (latents.mu[:-1], latents.actions))
        hidden, _ = memory.unroll(*inputs, memory.initial_state(1))
        assert not h[0].any()
        np.testing.assert_allclose(h[1:], hidden[0], atol=1e-5)
    env.close()


# --- C -------------------------------------------------------------------------------------------------------------


def evolving(world_model, out, **changes):
    args = train_controller.Args(world_model=world_model, out=out, generations=3, population=4, rollouts=2, max_steps=8)
    return replace(args, **changes)


def test_evolution_stopped_and_gone_on_with_gives_the_result_of_one_run(world_model_folder, tmp_path):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train_controller.main(evolving(world_model_folder, straight))
    train_controller.main(evolving(world_model_folder, stopped, generations=1))
    first = Controller.from_pretrained(stopped / "controller")
    train_controller.main(evolving(world_model_folder, stopped))
    for name in ("controller", "population"):
        mine, its = (Controller.from_pretrained(run / name) for run in (straight, stopped))
        assert np.array_equal(mine.parameters, its.parameters)
        assert not np.array_equal(mine.parameters, first.parameters)
    assert read_log(straight / "log.jsonl") == read_log(stopped / "log.jsonl")
    assert [line["generation"] for line in read_log(stopped / "log.jsonl")] == [1, 2, 3]


def test_all_members_meet_the_same_seeds(world_model_folder):
    config, seeds = ControllerConfig(), np.array([5, 9])
    one, other = np.random.default_rng(0).normal(0, 0.3, (2, config.parameters))
    members = np.stack([one, other, one, one])
    results = []
    for lanes in (8, 3, 1):  # all at once, with lanes left over, one after the other
        envs = make_lanes(train_controller.DREAM, lanes, world_model=world_model_folder, max_episode_steps=8)
        results.append(train_controller.evaluate(envs, members, seeds, config))
        apart = [train_controller.evaluate(envs, members[:2], seeds[[i]], config) for i in range(2)]
        envs.close()
        np.testing.assert_allclose(np.mean(apart, axis=0), results[-1][:2], rtol=1e-4)
        assert abs(apart[0] - apart[1]).min() > 1e-3
    for scores in results:
        np.testing.assert_allclose(scores, results[0], rtol=1e-4)
        np.testing.assert_allclose(scores[2:], scores[0], rtol=1e-4)
        assert abs(scores[1] - scores[0]) > 1e-3


def test_every_generation_has_seeds_of_its_own_for_all_members(world_model_folder, tmp_path, monkeypatch):
    evaluate = Mock(wraps=train_controller.evaluate)
    monkeypatch.setattr(train_controller, "evaluate", evaluate)
    train_controller.main(evolving(world_model_folder, tmp_path))
    members, seeds = zip(*(call.args[1:3] for call in evaluate.call_args_list), strict=True)
    assert [np.shape(each) for each in members] == [(4, 867)] * 3
    assert len(np.unique(seeds)) == 6
    assert all(seed in collect.TRAINING_SEEDS for seed in np.ravel(seeds))


def test_evolution_after_gradients_stopped_and_gone_on_with_gives_the_result_of_one_run(
    world_model_folder, tmp_path, monkeypatch
):
    settings = {"gradient": gradient.Args(steps=3, walkers=4, acting=3, coasting=2)}
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train_controller.main(evolving(world_model_folder, straight, **settings))
    with monkeypatch.context() as patch:
        patch.setattr(train_controller, "append_log", Mock(side_effect=[None, KeyboardInterrupt]))
        with pytest.raises(KeyboardInterrupt):
            train_controller.main(evolving(world_model_folder, stopped, **settings))
    ascend = Mock(wraps=gradient.ascend)
    monkeypatch.setattr(gradient, "ascend", ascend)
    train_controller.main(evolving(world_model_folder, stopped, **settings))
    assert not ascend.called
    mine, its = (Controller.from_pretrained(run / "controller").parameters for run in (straight, stopped))
    assert np.array_equal(mine, its)
    train_controller.main(evolving(world_model_folder, tmp_path / "another", **settings))
    (call,) = ascend.call_args_list
    assert not call.args[1].any()  # begins at zero


def test_pay_beyond_the_pace_counts_against_a_controller():
    pay = np.array([-100.0, -0.1, 0.0, 1.0, 1.15, 1.25, 2.15])
    expected = [-100.0, -0.1, 0.0, 1.0, 1.15, 1.13, 0.95]
    slow = gradient.Objective(pace=1.15, beyond=-0.2)
    np.testing.assert_allclose(slow.weigh(pay), expected)
    np.testing.assert_allclose(slow.weigh(torch.from_numpy(pay)), expected)
    np.testing.assert_array_equal(gradient.Objective().weigh(pay), pay)


def test_cma_es_follows_the_objective(world_model_folder, tmp_path):
    """Of dreams that pay a lot for every step, nothing is left when it counts against a controller."""
    model = make_world_model()
    with torch.no_grad():
        model.memory.heads.weight[-2:].zero_()
        model.memory.heads.bias[-2:] = torch.tensor([1.0, -20.0])
    model.save(tmp_path / "model")
    tiles = float(torch.nn.functional.softplus(torch.tensor(1.0)))
    for beyond in (1.0, 0.0, -1.0):
        objective = gradient.Objective(pace=1.5, beyond=beyond)
        out = tmp_path / str(beyond)
        train_controller.main(evolving(str(tmp_path / "model"), out, objective=objective, generations=1, max_steps=7))
        (line,) = read_log(out / "log.jsonl")
        pay = tiles * 1000 / 295
        expected = 7 * (1.5 + beyond * (pay - 1.5) - 0.1)
        assert line["population_score"] == pytest.approx(expected, rel=1e-4)


def test_the_real_env_has_no_gradients_and_pays_in_full(world_model_folder, tmp_path):
    with pytest.raises(ValueError, match="weighed step by step"):
        objective = gradient.Objective(beyond=0.5)
        train_controller.main(evolving(world_model_folder, tmp_path, env=train_controller.REAL, objective=objective))
    with pytest.raises(ValueError, match="only a dream has gradients"):
        train_controller.main(
            evolving(world_model_folder, tmp_path, env=train_controller.REAL, gradient=gradient.Args(steps=1))
        )


def test_a_controller_of_z_only_has_no_weights_of_h(world_model_folder, tmp_path):
    how = {"z_only": True, "gradient": gradient.Args(steps=3, walkers=4, acting=3, coasting=2)}
    train_controller.main(evolving(world_model_folder, tmp_path, **how))
    for name in ("controller", "population"):
        members = Controller.from_pretrained(tmp_path / name).parameters.reshape(-1, 3, 289)
        assert not members[:, :, 32:-1].any()
        assert members[:, :, :32].any() and members[:, :, -1].any()


def test_the_ascent_in_the_mode_has_no_noise_of_its_own(tmp_path):
    """Only the starts are drawn, and with one start nothing is: the temperature changes nothing."""
    model, config = make_world_model(), ControllerConfig()
    model.starts = Starts(*(each[:1] for each in vars(model.starts).values()))
    args = gradient.Args(steps=2, walkers=4, acting=3, coasting=2)
    zeros = np.zeros(config.parameters)
    cool, hot, noisy = (
        gradient.ascend(model, zeros, config, args, gradient.Objective(), temperature, 0, sampling)
        for temperature, sampling in ((0.5, "mode"), (3.0, "mode"), (3.0, "sample"))
    )
    np.testing.assert_array_equal(cool, hot)
    assert not np.array_equal(hot, noisy)
    with pytest.raises(ValueError, match="sampling must be"):
        gradient.ascend(model, zeros, config, args, gradient.Objective(), 1.0, 0, "mean")


@pytest.mark.parametrize("disturbance", [0.0, 0.3])
def test_a_disturbance_trembles_actions_by_its_share_of_half_their_range(disturbance, monkeypatch):
    model, config = make_world_model(), ControllerConfig()
    model.start_states  # noqa: B018 (their steps are not watched)
    taken, step = [], model.memory.step

    def watch(z, action, state):
        taken.append(action.detach())
        return step(z, action, state)

    monkeypatch.setattr(model.memory, "step", watch)
    args = gradient.Args(steps=1, walkers=2000, acting=40, coasting=0, disturbance=disturbance)
    gradient.ascend(model, np.zeros(config.parameters), config, args, gradient.Objective(), 1.0, 0)
    steering = torch.stack(taken)[..., 0]  # of weights zero, so all of it is tremble; gas and brake are cut off at zero
    assert steering.shape == (40, 2000)
    assert steering[-1].std().item() == pytest.approx(disturbance, rel=0.05)
    assert torch.stack(taken).amin() >= -1
    assert torch.stack(taken)[..., 1:].amin() == 0
    if disturbance:
        assert torch.corrcoef(steering[-2:])[0, 1].item() == pytest.approx(gradient.TREMBLE, abs=0.03)
        assert torch.stack(taken)[-1, :, 1].amax().item() < 4.5 * disturbance / 2
    with pytest.raises(ValueError, match="disturbance"):
        gradient.ascend(model, np.zeros(867), config, replace(args, disturbance=-0.1), gradient.Objective(), 1.0, 0)


def test_lanes_tremble_as_gradients_do(world_model_folder):
    dreams = make_lanes(train_controller.DREAM, 4000, world_model=world_model_folder)
    lanes, still = train_controller.Tremble(dreams, 0.3, alike=2000), np.zeros((4000, 3), np.float32)
    actions = np.stack([lanes.actions(still) for _ in range(60)])
    lanes.close()
    assert np.array_equal(actions[:, :2000], actions[:, 2000:])
    assert actions[-1, :, 0].std() == pytest.approx(0.3, rel=0.06)
    assert np.corrcoef(actions[-2:, :, 0])[0, 1] == pytest.approx(gradient.TREMBLE, abs=0.02)
    assert actions[..., 1:].min() == 0
    assert 0.45 < actions[-1, :, 1].max() < 0.15 * 5  # of gas and brake, half the range is 0.5
    assert np.abs(lanes.actions(still + 1)).max() == 1


@pytest.mark.parametrize("rows", [1.0, 0.03])
def test_the_policy_with_a_gradient_is_the_controller(rows):
    config = ControllerConfig()
    rng = np.random.default_rng(0)
    parameters, observations = rng.normal(0, rows, config.parameters), rng.standard_normal((7, 288), np.float32)
    policy = gradient.LinearPolicy(parameters, config, torch.device("cpu"))
    action, _ = policy(torch.from_numpy(observations), policy.rows)
    expected, _ = Controller(parameters, config).predict(observations)
    np.testing.assert_allclose(action.detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("kind", MEMORIES)
def test_gradients_raise_what_dreams_pay(kind, tmp_path):
    model = make_world_model(kind)
    with torch.no_grad():  # a memory whose tiles depend strongly on what it remembers
        model.memory.heads.weight[..., -2, :].normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
        model.memory.heads.bias[..., -1] = -20
    model.save(tmp_path / "model")
    config = ControllerConfig()
    args = gradient.Args(steps=30, walkers=16, acting=8, coasting=4, length=20, learning_rate=0.02)
    zeros, objective = np.zeros(config.parameters), gradient.Objective()
    found = gradient.ascend(model, zeros, config, args, objective, temperature=1.0, seed=0)
    envs = make_lanes(
        train_controller.DREAM, 64, world_model=str(tmp_path / "model"), max_episode_steps=12, starts="any"
    )
    seeds = np.arange(32)
    before, after = train_controller.evaluate(envs, np.stack([np.zeros_like(found), found]), seeds, config)
    envs.close()
    assert after > before + 1


# --- what the loop asks of the stages ------------------------------------------------------------------------------


def test_patience_ends_a_drive_that_finds_no_new_tile(tmp_path):
    collect.main(collecting(tmp_path, episodes=1, policy="random", burst_rate=1.0, max_steps=400, patience=20))
    (episode,) = [Episode.load(path) for path in episode_files(tmp_path)]
    assert not episode.terminated
    assert len(episode.actions) < 400
    assert not episode.tiles[-20:].any()
    assert episode.tiles[-21] > 0


def test_novelty_is_the_error_on_new_frames_over_the_error_on_old_ones(noise, tmp_path):
    run = shutil.copytree(noise, tmp_path / "run")
    assert 0.9 < train_vae.novelty(run / "rollouts", run / "vae", newest=1) < 1.1
    half = open_frames(run / "rollouts", 2, FRAMES) // 2 + 64  # noise of half the contrast
    save_frames(run / "rollouts", 2, FRAMES, half)
    assert 0.2 < train_vae.novelty(run / "rollouts", run / "vae", newest=1) < 0.3
