"""Stages among other processes: none outlives its parent, and two do not work in one folder."""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from unittest.mock import Mock

import pytest
from filelock import FileLock

from training import collect
from training.checkpoints import append_log, cut_log, read_log
from training.files import alone, keep_settings, write_atomic
from training.rollouts import episode_files
from training.workers import map_jobs

REPOSITORY = Path(__file__).parents[1]


def running(group: int) -> list[str]:
    """The processes of a group that have not ended."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    lines = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [line[2] for line in lines if line[0] == str(group) and not line[1].startswith("Z")]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    def fill_the_disk(file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    write_atomic(tmp_path / "file", lambda file: file.write(b"old"))
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "file", fill_the_disk)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT], ids=lambda how: how.name)
def test_workers_do_not_outlive_a_stage(tmp_path, how):
    command = [sys.executable, "-m", "training.collect", "--out", str(tmp_path), "--episodes", "1000", "--workers", "2"]
    command += ["--max-steps", "20"]
    stage = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while not episode_files(tmp_path):
            assert stage.poll() is None
            time.sleep(0.05)
        stage.send_signal(how)
        stage.wait(60)
        deadline = time.monotonic() + 60
        while left := running(stage.pid):
            assert time.monotonic() < deadline, left
            time.sleep(0.05)
    finally:
        if running(stage.pid):
            os.killpg(stage.pid, signal.SIGKILL)
            stage.wait()


def test_an_interrupt_between_two_results_ends_the_workers_too(tmp_path, monkeypatch):
    clock = Mock(monotonic=Mock(side_effect=[0.0, KeyboardInterrupt]))  # at the first episode's bookkeeping
    monkeypatch.setattr(collect, "time", clock)
    with pytest.raises(KeyboardInterrupt) as caught:  # whose traceback holds on to all that was interrupted
        collect.main(collect.Args(out=tmp_path, episodes=1000, max_steps=20))
    assert not multiprocessing.active_children(), caught
    assert 0 < len(episode_files(tmp_path)) < 20


@pytest.mark.parametrize("stage", ["collect", "encode", "train_vae", "train_rnn", "train_controller", "train_sb3"])
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_a_second_process_in_a_folder_is_told_so(tmp_path, stage, monkeypatch):
    monkeypatch.setattr(sys, "argv", [stage, "--out", str(tmp_path)])
    with FileLock(tmp_path / ".lock"), pytest.raises(RuntimeError, match="another process works in"):
        runpy.run_module(f"training.{stage}", run_name="__main__", alter_sys=True)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(tmp_path):
    half, theirs = tmp_path / "vae", tmp_path / ".notes.tmp"
    (half / f".model.{'0a' * 16}.tmp").mkdir(parents=True)
    (half / f".model.{'0a' * 16}.tmp" / "config.json").touch()
    (half / ".checkpoint.pt.4711.tmp").touch()
    (half / ".drive.4711.tmp.mp4").touch()
    theirs.touch()
    with alone(tmp_path):
        assert theirs.is_file() and not list(half.iterdir())


def test_the_lock_goes_with_its_process(tmp_path):
    for _ in range(2):
        with alone(tmp_path):
            pass
    hold = "import os, pathlib, sys; from training.files import alone; lock = alone(pathlib.Path(sys.argv[1])); "
    hold += "lock.__enter__(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", hold, str(tmp_path)], cwd=REPOSITORY).returncode == -signal.SIGKILL
    with alone(tmp_path):
        pass


@pytest.mark.parametrize("place", ["inside", "above"])
def test_a_process_in_a_folder_inside_or_above_is_told_so(tmp_path, place):
    whole, part = tmp_path / "run", tmp_path / "run" / "rollouts"
    part.mkdir(parents=True)
    worked, wanted = (whole, part) if place == "above" else (part, whole)
    command = [sys.executable, "-m", "training.collect", "--out", str(wanted)]
    with FileLock(worked / ".lock"):
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode != 0 and f"another process works in {worked}:" in done.stderr
    with alone(wanted), alone(tmp_path / "other run"):
        pass


def work(job):
    """Note that this job has begun; the one that is to die does so the first time, or each time."""
    folder, i, mortal, times = job
    begun = len(list(folder.glob(f"{i}-*")))
    (folder / f"{i}-{begun}").touch()
    if i == mortal and begun < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return i


def test_a_worker_that_dies_is_replaced(tmp_path, capfd):
    jobs = [(tmp_path, i, 3, 1) for i in range(8)]
    assert sorted(map_jobs(work, jobs, workers=2)) == list(range(8))
    assert "a worker process died" in capfd.readouterr().err
    assert len(list(tmp_path.glob("3-*"))) == 2
    assert len(list(tmp_path.glob("0-*"))) == 1  # what was done is not done again


def test_workers_that_die_again_and_again_are_given_up(tmp_path):
    results = map_jobs(work, [(tmp_path, i, 1, 99) for i in range(2)], workers=1)
    assert next(results) == 0
    with pytest.raises(RuntimeError, match=r"3 times in a row .* before any of 1 jobs .*--workers"):
        next(results)


def test_a_log_has_whole_lines_only(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read_log(path) == []
    for epoch in (1, 2, 3):
        append_log(path, {"epoch": epoch})
    whole = path.read_bytes()
    for torn in range(len(whole)):
        path.write_bytes(whole[:torn])
        lines = read_log(path)
        assert lines == [{"epoch": epoch} for epoch in range(1, 1 + whole[:torn].count(b"\n"))]
        append_log(path, {"epoch": 9})
        assert read_log(path) == [*lines, {"epoch": 9}]
    cut_log(path, "epoch", 1)
    assert read_log(path) == [{"epoch": 1}]


def test_settings_are_kept_and_changed_ones_refused(tmp_path, monkeypatch):
    path = tmp_path / "run" / "args.json"
    settings = {"seed": 0, "epochs": 3, "model": {"size": 32, "layers": (1, 2)}, "out": Path("here")}
    free = ("epochs", "out")
    keep_settings(path, settings, free)
    keep_settings(path, settings | {"epochs": 5, "out": Path("there")}, free)
    before = path.read_bytes()
    for changed, said in (
        ({"seed": 1}, r"seed \(0, now 1\)"),
        ({"model": {"size": 16, "layers": (1, 2)}}, r"model\.size \(32, now 16\)"),
        ({"new": True}, r"new \(None, now True\)"),
    ):
        with pytest.raises(ValueError, match=f"begun with another {said}.*remove that file"):
            keep_settings(path, settings | changed, free)
    monkeypatch.setattr("training.files.version", lambda package: version(package).split("+")[0] + "+another")
    monkeypatch.setattr("platform.python_version", lambda: "{}.{}.99".format(*sys.version_info))  # of another build
    keep_settings(path, settings | {"epochs": 5}, free)
    before = path.read_bytes()
    monkeypatch.setattr("training.files.version", lambda package: "0.0")
    with pytest.raises(ValueError, match=r"versions\.torch"):
        keep_settings(path, settings, free)
    assert path.read_bytes() == before and b'"epochs": 5' in before
    path.unlink()
    keep_settings(path, settings | {"seed": 1}, free)
