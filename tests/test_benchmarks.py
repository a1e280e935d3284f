"""Benchmarks measure what they say, and change nothing of what they measure."""

from types import SimpleNamespace

from benchmarks import controls, throughput
from training.checkpoints import append_log, read_log


def test_a_contest_tells_speeds_and_how_often_the_first_fits_into_them(monkeypatch):
    now = [0.0]

    def costs(seconds):
        def step():
            now[0] += seconds

        return step

    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert throughput.contest({"slow": costs(0.125), "fast": costs(0.0625)}, 3, 1.0) == {
        "slow": {"per_second": 8, "ratio": 1},
        "fast": {"per_second": 16, "ratio": 2},
    }


def test_a_control_changes_nothing_of_its_base(tmp_path):
    append_log(tmp_path / "base/vae/log.jsonl", {"epoch": 1})
    (tmp_path / "base/vae/x.npz").touch()
    controls.begin(tmp_path / "base", tmp_path / "run", ("vae",))
    append_log(tmp_path / "run/vae/log.jsonl", {"epoch": 2})
    assert len(read_log(tmp_path / "base/vae/log.jsonl")) == 1
    assert (tmp_path / "run/vae/x.npz").samefile(tmp_path / "base/vae/x.npz")
