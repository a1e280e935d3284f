"""Stages among other processes: none outlives its parent, and two do not work in one folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from training.files import alone, write_atomic
from training.rollouts import episode_files

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


@pytest.mark.parametrize("stage", ["collect", "encode", "train_vae", "train_rnn", "train_controller", "train_sb3"])
def test_a_second_process_in_a_folder_is_told_so(tmp_path, stage):
    command = [sys.executable, "-m", f"training.{stage}", "--out", str(tmp_path)]
    with FileLock(tmp_path / ".lock"):
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode != 0 and "another process works in" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_the_lock_goes_with_its_process(tmp_path):
    for _ in range(2):
        with alone(tmp_path):
            pass
    hold = "import os, pathlib, sys; from training.files import alone; lock = alone(pathlib.Path(sys.argv[1])); "
    hold += "lock.__enter__(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", hold, str(tmp_path)], cwd=REPOSITORY).returncode == -signal.SIGKILL
    with alone(tmp_path):
        pass
