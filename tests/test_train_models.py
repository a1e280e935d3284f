"""V and M: how their training goes on, what it refuses, and that the real env shows what it saw."""

import resource
import shutil
from dataclasses import replace
from unittest.mock import Mock

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import FRAMES, MEMORIES, contents
from trainings import encoding, make_noise, training

from training import encode, train_rnn, train_vae
from training.checkpoints import cosine, load_checkpoint, read_log, segment
from training.latents import LatentEpisode
from training.rollouts import Driver, Episode, FrameRecorder, episode_files, open_frames, save_frames
from wm_gym.car_racing import CAR_RACING
from wm_gym.models.mdn_rnn import MDNRNNConfig
from wm_gym.models.vae import VAEConfig
from wm_gym.tasks import make_env
from wm_gym.world_model import WorldModel


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    return make_noise(tmp_path_factory.mktemp("noise"))


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


@pytest.mark.parametrize("feature", ["amx_bf16", "avx512_bf16", "avx2"])
def test_v_computes_in_bfloat16_where_the_processor_does(feature, noise, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", feature: True})
    trained = {}
    for choice in ("auto", "yes", "no"):
        train_vae.main(training(train_vae, noise, tmp_path / choice, epochs=1, bfloat16=choice))
        trained[choice] = load_checkpoint(tmp_path / choice / "checkpoint.pt")["model"]["mu.weight"]
    assert not torch.equal(trained["yes"], trained["no"])
    assert torch.equal(trained["auto"], trained["no" if feature == "avx2" else "yes"])


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


def test_a_world_model_names_and_starts_from_no_drives_that_came_after_its_training(noise, tmp_path):
    run = shutil.copytree(noise, tmp_path / "run")
    artifact = train_rnn.main(training(train_rnn, run, tmp_path / "rnn"))
    before = contents(artifact)
    shutil.copy(run / "latents" / "1.npz", run / "latents" / "7.npz")
    train_rnn.main(training(train_rnn, run, tmp_path / "rnn"))
    assert contents(artifact) == before
    train_rnn.main(training(train_rnn, run, tmp_path / "rnn", epochs=2))
    assert WorldModel.load(artifact).config.training["episodes"] == {"random": 4}


def test_more_episodes_than_files_may_be_open(noise, tmp_path):
    rollouts = tmp_path / "rollouts"
    for seed in range(300):
        save_frames(rollouts, seed, FRAMES, np.full((2, 64, 64, 3), seed % 256, np.uint8))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        frames = train_vae.FrameSet(rollouts, FRAMES, range(300))
        assert frames[np.arange(600)][:, 0, 0, 0].tolist() == [i // 2 % 256 for i in range(600)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_chunks_of_an_episode_hand_on_the_memorys_state(noise, tmp_path, monkeypatch):
    handed, losses = [], train_rnn.losses

    def watch(memory, z, part, steps, state):
        handed.append((steps.start, bool(state[0].any())))
        assert memory.training  # cuDNN goes back through no other
        return losses(memory, z, part, steps, state)

    monkeypatch.setattr(train_rnn, "losses", watch)
    train_rnn.main(training(train_rnn, noise, tmp_path, epochs=2))
    assert {start for start, _ in handed} >= {0, 8, 16} and all(told == (start > 0) for start, told in handed)


@pytest.mark.parametrize(("row", "weight"), [(-2, "gain_weight"), (-1, "end_weight")])
def test_a_loss_without_weight_moves_nothing(row, weight, noise, tmp_path):
    before, after = (
        WorldModel.load(
            train_rnn.main(training(train_rnn, noise, tmp_path / str(epochs), epochs=epochs, **{weight: 0.0}))
        ).memory.heads.weight
        for epochs in (0, 1)
    )
    moved = (before != after).any(dim=1)
    assert not moved[row] and moved[-3 - row]


def test_v_weighs_its_gauges(noise, tmp_path, monkeypatch):
    loss = Mock(wraps=train_vae.vae_loss)
    monkeypatch.setattr(train_vae, "vae_loss", loss)
    train_vae.main(training(train_vae, noise, tmp_path))
    assert loss.call_args.args[5].tolist() == [1] * 56 + [4] * 8


def test_a_squared_error_without_weight_leaves_the_decoder_alone(noise, tmp_path):
    train_vae.main(training(train_vae, noise, tmp_path, error_weight=0.0, free_bits=0.0))
    before = load_checkpoint(tmp_path / "checkpoint.pt")["model"]
    train_vae.main(training(train_vae, noise, tmp_path, error_weight=0.0, free_bits=0.0, epochs=2))
    after = load_checkpoint(tmp_path / "checkpoint.pt")["model"]
    moved = {name.split(".")[0] for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert moved and "decoder" not in moved


@pytest.mark.parametrize(
    ("terminated", "finished", "ended"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_a_finished_lap_is_no_failure_and_gains_are_tiles(terminated, finished, ended):
    numbers = np.full(2, -0.1, np.float32), np.array([2, 1], np.int16), 300, terminated, finished
    drive = Episode(3, np.zeros((2, 3), np.float32), *numbers, Driver("random", "random"))
    seen = encode.encoded(drive, CAR_RACING, *np.zeros((2, 3, 32), np.float32), "v")
    assert (seen.ended, seen.gains.tolist()) == (ended, [2, 1])


def test_a_recorder_knows_a_finished_lap():
    env = FrameRecorder(make_env(CAR_RACING), FRAMES)
    env.reset(seed=0)
    for visited in (None, len(env.unwrapped.track)):
        if visited is not None:
            env.unwrapped.tile_visited_count = visited
        env.step(np.array([0, 0.5, 0], np.float32))
        assert env.terminated == env.finished == (visited is not None)
    env.close()


def test_the_learning_rate_falls_from_all_to_a_twentieth_and_a_finished_training_starts_anew():
    assert (cosine(0), cosine(1), cosine(2)) == (1, pytest.approx(0.05), pytest.approx(0.05))
    assert segment(None, 10) == (0, 10)
    assert segment({"epoch": 4, "segment": (0, 10)}, 10) == (0, 10)  # interrupted
    assert segment({"epoch": 10, "segment": (0, 10)}, 14) == (10, 14)


def test_the_decoders_own_epochs_move_no_latent(noise, tmp_path):
    train_vae.main(training(train_vae, noise, tmp_path))
    before = load_checkpoint(tmp_path / "checkpoint.pt")["model"]
    train_vae.main(training(train_vae, noise, tmp_path, decoder_epochs=1))
    after = load_checkpoint(tmp_path / "checkpoint.pt")["model"]
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor) == (not name.startswith("decoder")), name


def test_epochs_that_decoder_epochs_have_used_up_are_refused(noise, tmp_path):
    train_vae.main(training(train_vae, noise, tmp_path, decoder_epochs=2))
    with pytest.raises(ValueError, match="has 3 epochs, those of the decoder counted: --epochs 2 is too few"):
        train_vae.main(training(train_vae, noise, tmp_path, epochs=2, decoder_epochs=2))
    with pytest.raises(ValueError, match="--epochs 2 is too few"):
        train_vae.main(training(train_vae, noise, tmp_path, epochs=2))


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


def test_more_starts_than_m_may_be_run_over_are_refused_before_it_trains(noise, tmp_path):
    with pytest.raises(ValueError, match=r"starts of .* steps are too many to run this memory over"):
        train_rnn.main(training(train_rnn, noise, tmp_path, starts=10**8))
    assert not (tmp_path / "log.jsonl").exists()


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


def test_novelty_is_the_error_on_new_frames_over_the_error_on_old_ones(noise, tmp_path):
    run = shutil.copytree(noise, tmp_path / "run")
    assert 0.9 < train_vae.novelty(run / "rollouts", run / "vae", newest={2}) < 1.1
    half = open_frames(run / "rollouts", 2, FRAMES) // 2 + 64  # noise of half the contrast
    save_frames(run / "rollouts", 2, FRAMES, half)
    assert 0.2 < train_vae.novelty(run / "rollouts", run / "vae", newest={2}) < 0.3


def test_v_sees_a_small_thing_on_white(noise, tmp_path):
    frames, rng = np.full((400, 64, 64, 3), 255, np.uint8), np.random.default_rng(0)
    for frame, (y, x) in zip(frames, rng.integers(8, 56, (400, 2)), strict=True):
        frame[y - 4 : y + 4, x - 4 : x + 4] = 0, 0, 200
    save_frames(tmp_path, 0, FRAMES, frames)
    shutil.copy(episode_files(noise / "rollouts")[0], tmp_path)
    how = training(train_vae, noise, tmp_path / "vae", epochs=14, batch=32, model=VAEConfig(8, (8, 16, 32, 64)))
    train_vae.main(replace(how, rollouts=tmp_path, error_weight=3.0))
    *_, last = read_log(tmp_path / "vae" / "log.jsonl")
    assert last["squared_error"] < 0.8 * np.square(frames / 255 - frames.mean(0) / 255).sum((1, 2, 3)).mean()
