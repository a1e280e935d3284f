"""A Ray cluster of several nodes, all on this machine: it gives what local processes give, whatever dies."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from benchmarks.cluster import on_paper
from training import collect, train_controller
from training.cluster import QUIET, connect
from training.driving import drive_real
from training.rollouts import episode_files, save_frames
from training.workers import map_jobs
from wm_gym.models.controller import Controller, ControllerConfig
from wm_gym.world_model import WorldModel

REAL = "LatentCarRacing-v0"
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def place():
    """A folder of a short name, as sockets need it."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        yield folder


@pytest.fixture(scope="module")
def head(place):
    """A cluster whose head drives nothing."""
    os.environ.update(QUIET)
    soon = {"health_check_period_ms": 500}  # is a dead node found out
    how = {"num_cpus": 0, "include_dashboard": False, "_system_config": soon}
    cluster = Cluster(initialize_head=True, head_node_args=how)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def cluster(head, place):
    """The cluster with two nodes of one core each, and each its own place for what Ray writes."""
    while len(head.worker_nodes) < 2:
        head.add_node(num_cpus=1, temp_dir=tempfile.mkdtemp(dir=place))
    return head


def kill_a_node(cluster):
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)


def wait_until(true):
    deadline = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def idle():
    """Whether no core of the cluster works."""
    return ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.np[yz]")}


@pytest.fixture
def run(world_model_folder, tmp_path, monkeypatch):
    """What to collect, with names that mean nothing in the working directory of a node."""
    monkeypatch.chdir(tmp_path)
    WorldModel.load(world_model_folder).save("model")
    config = ControllerConfig()
    members = np.random.default_rng(0).normal(0, 0.01, (2, config.action_size, config.observation_size + 1))
    members[1, 1, -1] = 2  # gives gas
    Controller(members.reshape(2, -1), config).save("population")
    how = {"policy": "population", "world_model": Path("model"), "members": 2, "burst_rate": 0.2, "max_steps": 25}
    return collect.Args(out=Path("local"), episodes=5, workers=1, **how)


def test_a_cluster_collects_the_same_bytes_though_a_node_dies(cluster, run, monkeypatch):
    assert len(collect.main(run)) == 5
    killed = []

    def save_and_kill(*args):
        save_frames(*args)
        if not killed:
            killed.append(kill_a_node(cluster))

    monkeypatch.setattr(collect, "save_frames", save_and_kill)
    episodes = collect.main(replace(run, out=Path("cluster"), ray=cluster.address))
    assert killed and sorted(episode.seed for episode in episodes) == list(range(5))
    assert len(contents(Path("local"))) == 10
    assert contents(Path("cluster")) == contents(Path("local"))


def test_a_cluster_drives_as_local_processes_do(cluster, run):
    population, seeds, members = Controller.from_pretrained("population"), np.array([5, 4]), np.array([1, 0])
    episodes = [(int(seed), int(member)) for member in members for seed in seeds]
    here, there = (
        drive_real(population, "model", episodes, 1, address, max_episode_steps=40)
        for address in (None, cluster.address)
    )
    assert [each.result for each in here] == [each.result for each in there]
    for mine, its in zip(here, there, strict=True):
        assert mine.z.tobytes() == its.z.tobytes() and mine.rewards.tobytes() == its.rewards.tobytes()
    args = train_controller.Args(env=REAL, world_model="model", max_steps=40, ray=cluster.address)
    scores, frames = train_controller.evaluate_real(args, population.parameters[members], seeds, population.config)
    assert scores.tolist() == [np.mean([each.result.score for each in part]) for part in (here[:2], here[2:])]
    assert scores[0] != scores[1]
    assert frames == sum(each.result.steps + 1 for each in here)


def test_the_code_travels(cluster):
    def work(_):
        import training
        import wm_gym

        return wm_gym.__file__, training.__file__

    (files,) = map_jobs(work, [None], workers=0, ray=cluster.address)
    assert not any(Path(file).is_relative_to(REPOSITORY) for file in files), files


def test_a_lost_node_costs_its_unfinished_job_and_no_other(cluster, tmp_path):
    def work(i):
        """Note that it has begun, and wait unless it is the first."""
        (tmp_path / f"{i}-{uuid4()}").touch()
        while i and not (tmp_path / "go").exists():
            time.sleep(0.05)
        return i

    def begun(i):
        return len(list(tmp_path.glob(f"{i}-*")))

    results = map_jobs(work, range(4), workers=0, ray=cluster.address)
    assert next(results) == 0
    wait_until(lambda: begun(1) and begun(2))
    kill_a_node(cluster)
    (tmp_path / "go").touch()
    assert sorted(results) == [1, 2, 3]
    assert [begun(0), begun(1) + begun(2), begun(3)] == [1, 3, 1]


def test_what_a_job_raises_is_raised_and_ends_the_others(cluster):
    def work(i):
        if i == 1:
            raise FileNotFoundError("nowhere")
        time.sleep(1000)

    with pytest.raises(FileNotFoundError, match="nowhere"):
        list(map_jobs(work, range(5), workers=0, ray=cluster.address))
    wait_until(idle)


def test_an_interrupted_collection_leaves_the_cluster_idle_and_goes_on(cluster, run):
    command = [sys.executable, "-m", "training.collect", "--out", "cluster", "--ray", cluster.address]
    command += ["--episodes", "1000", "--max-steps", "25"]
    stage = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])})
    try:
        wait_until(lambda: episode_files(Path("cluster")) or stage.poll() is not None)
        stage.send_signal(signal.SIGINT)
        assert stage.wait(300) != 0
    finally:
        stage.kill()
    connect(cluster.address)
    wait_until(idle)
    done = contents(Path("cluster"))
    episodes = len(episode_files(Path("cluster"))) + 2
    assert 2 < episodes < 20
    goes_on = collect.Args(out=Path("cluster"), episodes=episodes, max_steps=25, ray=cluster.address)
    assert len(collect.main(goes_on)) == 2
    there = contents(Path("cluster"))
    assert done.items() <= there.items()
    assert [path.stem for path in episode_files(Path("cluster"))] == [str(seed) for seed in range(episodes)]


def test_a_cluster_on_paper_is_as_slow_as_its_slowest_part():
    drive = {"frames": 1001, "seconds": 4.0, "bytes": 12e6, "home_seconds": 0.05, "weights": 9e6, "start": 1.0}
    alone = on_paper(drive, 1, 10, 1e9)
    assert (alone["seconds"], alone["efficiency"], alone["limit"]) == (41, pytest.approx(40 / 41), "driving")
    assert alone["frames_per_second"] == pytest.approx(10_010 / 41)
    assert on_paper(drive, 64, 65, 1e9)["seconds"] == 1 + 2 * 4  # the last drive is alone
    slow, quick = on_paper(drive, 1000, 1000, 1e8), on_paper(drive, 1000, 1000, 1e9)
    assert (slow["limit"], slow["seconds"]) == ("link", pytest.approx(1 + 120 + 16 * 0.09))
    assert (quick["limit"], quick["seconds"]) == ("home", 1 + 50)
