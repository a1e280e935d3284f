"""V and M see CarRacing's drives in a mirror, too, where they are asked to."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import FRAMES
from trainings import encoding, make_noise, training

from training import encode, train_rnn, train_vae
from training.checkpoints import load_checkpoint
from training.latents import LatentEpisode, Sequences
from training.rollouts import open_frames
from wm_gym.frames import mirror
from wm_gym.tasks import TaskConfig


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    return make_noise(tmp_path_factory.mktemp("noise"))


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
