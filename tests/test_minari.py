"""Rollouts as Minari's datasets and back: everything in them is what stock CarRacing-v3 gives, or is left out."""

import json
from dataclasses import replace

import gymnasium as gym
import minari
import numpy as np
import pytest
from conftest import ACROBOT
from minari.data_collector import EpisodeBuffer

from training import collect
from training import minari as stage
from training.encode import open_frames
from training.rollouts import Driver, Episode, episode_files, frames_file, keep_task, save_frames
from wm_gym.car_racing import CAR_RACING
from wm_gym.frames import encoder_input
from wm_gym.tasks import TaskConfig

FRAMES, STEPS = "gauges96", 30


@pytest.fixture(autouse=True)
def datasets(tmp_path, monkeypatch):
    """Minari's folder."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


@pytest.fixture
def one_process(monkeypatch):
    monkeypatch.setattr(stage, "map_jobs", lambda function, jobs, _: (function(job) for job in jobs))


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory):
    """Two short drives of the real CarRacing."""
    folder = tmp_path_factory.mktemp("drives") / "rollouts"
    for seed in (3, 4):
        job = collect.Job(CAR_RACING, seed, Driver("random", "random", burst_rate=0.2), STEPS, 0, FRAMES)
        episode, frames = collect.drive(job)
        save_frames(folder, seed, FRAMES, frames)
        episode.save(folder)
    return folder


@pytest.fixture(scope="module")
def theirs():
    """An episode of stock CarRacing-v3 as Minari's collector leaves it, with a seed of its own making."""
    env, seed = gym.make("CarRacing-v3"), 2**63 + 5
    env.action_space.seed(0)
    observations, actions, steps = [env.reset(seed=seed)[0]], [], []
    for _ in range(STEPS):
        actions.append(env.action_space.sample())
        observation, *step, _ = env.step(actions[-1])
        observations.append(observation)
        steps.append(step)
    env.close()
    rewards, terminations, truncations = map(list, zip(*steps, strict=True))
    truncations[-1] = True
    return EpisodeBuffer(None, seed, None, observations, actions, rewards, terminations, truncations, {})


def dataset_of(*episodes, env="CarRacing-v3", **spaces):
    minari.create_dataset_from_buffers("theirs-v0", list(episodes), env=env, **spaces)
    return stage.Import("theirs-v0")


def test_an_exported_dataset_is_what_stock_car_racing_gives(rollouts):
    stage.export_dataset(stage.Export("CarRacing/mine-v0", rollouts, author="Ann"))
    dataset = minari.load_dataset("CarRacing/mine-v0")
    seeds = [metadata["seed"] for metadata in dataset.storage.get_episode_metadata(range(2))]
    assert seeds == [3, 4]
    assert "2 random" in dataset.storage.metadata["description"]
    assert dataset.storage.metadata["author"] == {"Ann"}
    env = dataset.recover_environment()
    assert env.spec.id == "CarRacing-v3"
    assert dataset.observation_space == env.observation_space
    assert dataset.action_space == env.action_space
    for episode, seed in zip(dataset, seeds, strict=True):
        assert np.array_equal(env.reset(seed=seed)[0], episode.observations[0])
        assert episode.actions.dtype == np.float32
        for t, action in enumerate(episode.actions):
            observation, reward, terminated, _, _ = env.step(action)
            assert np.array_equal(observation, episode.observations[t + 1])
            assert (reward, terminated) == (episode.rewards[t], episode.terminations[t])
        assert len(episode.observations) == STEPS + 1
        assert episode.truncations.tolist() == [False] * (STEPS - 1) + [True]
    env.close()


def test_rollouts_come_back_from_their_dataset_with_frames_and_all(rollouts, tmp_path):
    stage.export_dataset(stage.Export("mine-v0", rollouts))
    imported = stage.import_dataset(stage.Import("mine-v0", tmp_path / "new", label="random"))
    assert sorted(episode.seed for episode in imported) == [3, 4]
    for path in episode_files(rollouts):
        old, new = Episode.load(path), Episode.load(tmp_path / "new" / path.name)
        assert new.driver == Driver("minari:mine-v0", "random")
        for name, value in vars(replace(old, driver=new.driver)).items():
            assert np.array_equal(getattr(new, name), value), name
        frames = [frames_file(folder, old.seed, FRAMES).read_bytes() for folder in (rollouts, tmp_path / "new")]
        assert frames[0] == frames[1]
    assert stage.import_dataset(stage.Import("mine-v0", tmp_path / "new")) == []  # all there


def test_episodes_of_another_env_are_no_car_racing(theirs, tmp_path):
    keep_task(tmp_path / "acrobot", ACROBOT)
    with pytest.raises(ValueError, match=r"holds episodes of Acrobot-v1 {}, but"):
        stage.export_dataset(stage.Export("mine-v0", tmp_path / "acrobot"))
    keep_task(tmp_path / "choices", TaskConfig.of("CarRacing-v3", continuous=False))
    with pytest.raises(
        ValueError, match=r"holds episodes of CarRacing-v3 {'continuous': False}, but .* CarRacing-v3 {}"
    ):
        stage.export_dataset(stage.Export("mine-v0", tmp_path / "choices"))
    with pytest.raises(ValueError, match=r"holds episodes of Acrobot-v1 {}, but"):
        stage.import_dataset(replace(dataset_of(theirs), out=tmp_path / "acrobot"))


def test_an_episode_that_ends_is_terminated_and_not_truncated(rollouts, tmp_path):
    replace(Episode.load(episode_files(rollouts)[0]), terminated=True).save(tmp_path)
    (episode,) = stage.export_dataset(stage.Export("mine-v0", tmp_path))
    assert episode.terminations.tolist() == [False] * (STEPS - 1) + [True]
    assert not episode.truncations.any()


def test_episodes_of_others_are_drawn_as_the_encoder_sees_them(theirs, tmp_path, one_process):
    (episode,) = stage.import_dataset(replace(dataset_of(theirs), out=tmp_path / "new"))
    assert episode.driver.label == "privileged"
    (path,) = episode_files(tmp_path / "new")
    assert Episode.load(path).seed == theirs.seed
    assert np.array_equal(Episode.load(path).actions, theirs.actions)
    given = minari.load_dataset("theirs-v0")[0].observations
    assert not np.array_equal(given, theirs.observations)  # Minari's JPEGs
    drawn = encoder_input(np.stack(theirs.observations), FRAMES)
    assert np.array_equal(open_frames(tmp_path / "new", theirs.seed, FRAMES), drawn)


def test_what_can_not_be_driven_again_is_left_out_and_why_is_said(theirs, tmp_path, one_process, capsys):
    args = dataset_of(
        replace(theirs, seed=None),
        replace(theirs, seed=1_000_007),
        theirs,
        theirs,
        replace(theirs, seed=5, rewards=[reward + 0.01 for reward in theirs.rewards]),
        replace(theirs, seed=6, actions=[action + 2 for action in theirs.actions]),
        replace(theirs, seed=7, terminations=theirs.truncations),
    )
    imported = stage.import_dataset(replace(args, out=tmp_path / "new"))
    assert [episode.seed for episode in imported] == [theirs.seed]
    assert [path.stem for path in episode_files(tmp_path / "new")] == [str(theirs.seed)]
    said = capsys.readouterr().out
    for why in (
        "1 imported",
        "1 left out: no seed",
        "1 left out: the tracks are those of validation and tests",
        "1 left out: there is an episode on their track",
        "2 left out: the actions do not earn the rewards",
        "1 left out: no actions, or others than Box",
    ):
        assert why in said


def test_a_dataset_without_any_seed_is_refused(theirs, tmp_path):
    args = replace(dataset_of(replace(theirs, seed=None)), out=tmp_path / "new")
    with pytest.raises(ValueError, match=r"theirs-v0: no episode can be imported.*1 left out: no seed is known"):
        stage.import_dataset(args)
    assert not (tmp_path / "new").exists()


def test_another_task_is_refused(theirs, tmp_path):
    discrete = gym.spaces.Discrete(5)
    actions = replace(theirs, actions=[0] * STEPS)
    args = dataset_of(
        actions, env=None, observation_space=gym.spaces.Box(0, 255, (96, 96, 3), np.uint8), action_space=discrete
    )
    with pytest.raises(ValueError, match=r"theirs-v0: its actions are of Discrete\(5\), expected CarRacing's Box"):
        stage.import_dataset(args)


def test_a_missing_dataset_says_how_to_fetch_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="minari download theirs-v0"):
        stage.import_dataset(stage.Import("theirs-v0", tmp_path / "new"))


def test_nothing_that_a_dataset_names_is_called(theirs, datasets, tmp_path):
    args = dataset_of(theirs)
    path = datasets / "theirs-v0" / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    spec = json.loads(metadata["env_spec"])
    spec |= {"entry_point": "os:system", "kwargs": {"command": f"touch {tmp_path / 'called'}"}}
    del metadata["observation_space"], metadata["action_space"]
    path.write_text(json.dumps(metadata | {"env_spec": json.dumps(spec)}))
    with pytest.raises(ValueError, match=r"metadata\.json: lacks \['action_space', 'observation_space'\]"):
        stage.import_dataset(args)
    assert not (tmp_path / "called").exists()


def test_an_export_that_breaks_off_leaves_no_dataset(rollouts, datasets, tmp_path):
    for path in episode_files(rollouts):
        Episode.load(path).save(tmp_path / "spoiled")
    replace(Episode.load(path), rewards=np.ones(STEPS, np.float32)).save(tmp_path / "spoiled")
    with pytest.raises(RuntimeError, match=r"4\.npz.*rewards"):
        stage.export_dataset(stage.Export("mine-v0", tmp_path / "spoiled"))
    assert not (datasets / "mine-v0").exists()


def test_a_dataset_is_not_replaced(theirs, rollouts):
    dataset_of(theirs)
    with pytest.raises(FileExistsError, match="theirs-v0"):
        stage.export_dataset(stage.Export("theirs-v0", rollouts))
    assert len(minari.load_dataset("theirs-v0")) == 1
    with pytest.raises(FileNotFoundError, match=r"training\.collect"):
        stage.export_dataset(stage.Export("mine-v0", rollouts / "nothing"))
