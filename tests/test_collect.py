"""Real drives: what is written, how a folder is filled up, and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import FRAMES, collecting, contents

from training import collect
from training.rollouts import Driver, Episode, episode_files, frames_file, open_frames
from wm_gym.car_racing import CAR_RACING


@pytest.fixture
def own_drives(drives, tmp_path):
    """A copy of the drives, to spoil."""
    return shutil.copytree(drives, tmp_path / "rollouts")


def test_collect_writes_episodes_and_their_frames(drives):
    episodes = [Episode.load(path) for path in episode_files(drives)]
    assert [episode.seed for episode in episodes] == [0, 1]
    for episode in episodes:
        assert episode.actions.shape == (30, 3)
        assert episode.rewards.shape == episode.counts.shape == (30,)
        assert open_frames(drives, episode.seed, FRAMES).shape == (31, 64, 64, 3)
        assert episode.driver == Driver("random", "random", burst_rate=0.2)
        expected = 1000 / episode.goal * episode.counts - 0.1  # reset itself visits none
        np.testing.assert_allclose(episode.rewards, expected, rtol=1e-4)
    assert not np.array_equal(episodes[0].actions, episodes[1].actions)


def test_the_same_arguments_drive_the_same_whatever_the_number_of_workers(drives, tmp_path):
    collect.main(collecting(tmp_path))
    for path in episode_files(drives):
        mine, its = Episode.load(path), Episode.load(tmp_path / path.name)
        for array in ("actions", "rewards", "counts"):
            assert getattr(mine, array).tobytes() == getattr(its, array).tobytes()
        assert (
            frames_file(drives, mine.seed, FRAMES).read_bytes() == frames_file(tmp_path, mine.seed, FRAMES).read_bytes()
        )


def test_drives_that_read_the_track_are_no_policys_own(tmp_path):
    with pytest.raises(ValueError, match=r"scripted-varied drives read the track.*leave out --own"):
        collect.main(collecting(tmp_path, policy="scripted-varied", own=True))


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


def test_what_a_worker_raises_is_reported(own_drives):
    before = contents(own_drives)
    with pytest.raises(ValueError, match="nowhere"):
        collect.main(collecting(own_drives, episodes=3, policy=str(own_drives / "nowhere")))
    assert contents(own_drives) == before


def test_patience_ends_a_drive_that_finds_no_new_tile(tmp_path):
    collect.main(collecting(tmp_path, episodes=1, policy="random", burst_rate=1.0, max_steps=400, patience=20))
    (episode,) = [Episode.load(path) for path in episode_files(tmp_path)]
    assert not episode.terminated
    assert len(episode.actions) < 400
    assert not episode.counts[-20:].any()
    assert episode.counts[-21] > 0


def test_drives_are_labelled_by_what_their_policy_may_know():
    task = CAR_RACING
    for policy, own, label in (
        ("random", False, "random"),
        ("scripted", False, "privileged"),
        ("car_racing", False, "privileged"),
        ("runs/mine/controller", True, "own"),
    ):
        (job,) = collect.new_drives(collect.Args(Path("nowhere"), episodes=1, policy=policy, own=own), task)
        assert job.driver.label == label


@pytest.mark.parametrize("first", [-5, 999_998, 1_000_000])
def test_tracks_are_those_for_training(first):
    with pytest.raises(ValueError, match=f"0 to 999999.* 3 unused ones from --first-seed {first}"):
        collect.new_drives(collect.Args(Path("nowhere"), episodes=3, first_seed=first), CAR_RACING)
