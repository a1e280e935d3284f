"""V and M: how their training goes on, what it refuses, and that the real env shows what it saw."""

import shutil
from dataclasses import replace
from unittest.mock import Mock

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import FRAMES, MEMORIES, contents

from training import encode, train_rnn, train_vae
from training.checkpoints import load_checkpoint, read_log
from training.latents import LatentEpisode, Sequences
from training.rollouts import Driver, Episode, episode_files, open_frames, save_frames
from wm_gym.frames import mirror
from wm_gym.models.mdn_rnn import MDNRNNConfig
from wm_gym.models.vae import VAEConfig
from wm_gym.tasks import TaskConfig
from wm_gym.world_model import WorldModel

SMALL = VAEConfig(channels=(4, 8, 8, 8))


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
def noise(tmp_path_factory):
    """A run of three made-up episodes of noise, the last a failure, encoded by a V of one epoch."""
    run, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for seed, steps in enumerate((20, 25, 17)):
        save_frames(run / "rollouts", seed, FRAMES, rng.integers(0, 256, (steps + 1, 64, 64, 3), np.uint8))
        Episode(
            seed=seed,
            actions=rng.uniform([-1, 0, 0], [1, 1, 1], (steps, 3)).astype(np.float32),
            rewards=np.zeros(steps, np.float32),
            counts=rng.integers(0, 3, steps).astype(np.int16),
            goal=300,
            terminated=seed == 2,
            finished=False,
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


def test_novelty_is_the_error_on_new_frames_over_the_error_on_old_ones(noise, tmp_path):
    run = shutil.copytree(noise, tmp_path / "run")
    assert 0.9 < train_vae.novelty(run / "rollouts", run / "vae", newest={2}) < 1.1
    half = open_frames(run / "rollouts", 2, FRAMES) // 2 + 64  # noise of half the contrast
    save_frames(run / "rollouts", 2, FRAMES, half)
    assert 0.2 < train_vae.novelty(run / "rollouts", run / "vae", newest={2}) < 0.3


# --- in a mirror -----------------------------------------------------------------------------------------------------


def test_latents_in_a_mirror_are_those_of_mirrored_frames(noise, tmp_path):
    how = replace(encoding(noise), out=tmp_path)
    paths = encode.main(how)
    plain = LatentEpisode.load(paths[0])
    with pytest.raises(ValueError, match="encode --mirror"):
        plain.in_mirror()
    encode.main(replace(how, mirror=True))
    both = LatentEpisode.load(paths[0])
    assert np.array_equal(both.mu, plain.mu) and np.array_equal(both.actions, plain.actions)
    vae = encode.load_vae(load_checkpoint(tmp_path / "vae.pt"))
    seen = mirror(open_frames(noise / "rollouts", plain.seed, FRAMES), FRAMES)
    mirrored = both.in_mirror()
    np.testing.assert_allclose(mirrored.mu, vae.encode(torch.from_numpy(seen))[0].numpy(), atol=1e-4)
    assert np.array_equal(mirrored.actions, plain.actions * [-1, 1, 1])
    assert np.array_equal(mirrored.gains, plain.gains)
    stamps = [path.stat().st_mtime_ns for path in paths]
    encode.main(replace(how, mirror=True))
    encode.main(how)  # what was seen in a mirror too will do
    assert [path.stat().st_mtime_ns for path in paths] == stamps


def test_the_memory_sees_each_drive_both_ways_and_the_held_out_as_they_are(noise, tmp_path, monkeypatch):
    encode.main(replace(encoding(noise), out=tmp_path / "latents", mirror=True))
    seen, of = [], Sequences.of
    monkeypatch.setattr(Sequences, "of", lambda episodes, *args: seen.append(episodes) or of(episodes, *args))
    how = training(train_rnn, noise, tmp_path / "rnn", epochs=12)
    train_rnn.main(replace(how, latents=tmp_path / "latents", mirror=True, batch=1, held_out=3))
    held_out = {each.seed for batch in seen for each in batch if each.seed == 0}
    ways = {seed: {each.mirrored is None for batch in seen for each in batch if each.seed == seed} for seed in range(3)}
    assert held_out == {0} and ways == {0: {False}, 1: {True, False}, 2: {True, False}}


def test_dreams_start_in_a_mirror_in_the_middle_of_drives_alone(noise, tmp_path):
    encode.main(replace(encoding(noise), out=tmp_path, mirror=True))
    episodes = [LatentEpisode.load(tmp_path / f"{seed}.npz") for seed in range(3)]
    mirrored = [replace(each.in_mirror(), mu=each.mu + 100) for each in episodes]
    args = train_rnn.Args(starts=50, window=5)
    starts = train_rnn.make_starts(episodes, mirrored, args, None)
    first = starts.z[np.arange(len(starts.z)), starts.length].mean(-1)
    assert (first[starts.length == 0] < 50).all()
    assert 0.2 < (first[starts.length > 0] > 50).mean() < 0.8


def test_v_sees_half_of_the_frames_in_a_mirror(noise, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(
        train_vae, "mirror", lambda frames, version: shown.append(len(frames)) or mirror(frames, version)
    )
    for switch in (True, False):
        train_vae.main(training(train_vae, noise, tmp_path / str(switch), epochs=3, mirror=switch))
    assert 0.3 < sum(shown) / (3 * 65) < 0.7  # 65 frames
    mine, its = (load_checkpoint(tmp_path / str(switch) / "checkpoint.pt")["model"] for switch in (True, False))
    assert not torch.equal(mine["mu.weight"], its["mu.weight"])


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


@pytest.mark.parametrize("task", [("Acrobot-v1", {}), ("CarRacing-v3", {"continuous": False})])
@pytest.mark.parametrize("stage", [train_vae, encode, train_rnn])
def test_other_tasks_have_no_mirror(stage, task, noise, tmp_path, monkeypatch):
    other = TaskConfig.of(task[0], **task[1])
    monkeypatch.setattr(stage, "load_task", lambda folder: other, raising=False)
    monkeypatch.setattr(TaskConfig, "from_dict", lambda fields: other)
    how = replace(encoding(noise), out=tmp_path) if stage is encode else training(stage, noise, tmp_path)
    with pytest.raises(
        ValueError, match=f"CarRacing-v3 with its continuous actions is known in a mirror, not {task[0]}"
    ):
        stage.main(replace(how, mirror=True))
