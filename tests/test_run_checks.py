"""What a run of the loop can't be is said before it begins."""

from dataclasses import replace

import pytest

from training import loop
from training.presets import PRESETS

SMOKE = PRESETS["smoke"]
WHOLE = replace(SMOKE.vae, frames="whole")


@pytest.mark.parametrize(
    "changed", [{"rounds": 26}, {"candidates": 0}, {"candidates": 5, "sought": 5}, {"candidates": 3, "sought": 2}]
)
def test_a_run_chooses_among_few_candidates_that_drive(changed, tmp_path):
    with pytest.raises(
        ValueError, match=r"at most 50 candidates.*--rounds \d+ --sought . --candidates . --own-episodes 4"
    ):
        loop.main(replace(SMOKE, run=tmp_path, **changed))


@pytest.mark.parametrize("changed", [{"rounds": 0}, {"finalists": 0}])
def test_a_run_needs_a_round_and_a_finalist(changed, tmp_path):
    with pytest.raises(ValueError, match=r"--rounds . --finalists ."):
        loop.main(replace(SMOKE, run=tmp_path, **changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"env": "Acrobot-v1"}, "in a mirror, not Acrobot-v1.*--no-mirror"),
        ({"env_kwargs": '{"continuous": false}'}, "in a mirror, not CarRacing-v3.*--no-mirror"),
        ({"env_kwargs": "{bad"}, "--env-kwargs must be a JSON object, got '{bad'"),
        ({"env_kwargs": "[1]"}, r"--env-kwargs must be a JSON object, got '\[1\]'"),
        ({"env": "Acrobot-v1", "mirror": False}, 'need --frames "whole" \\(of a loop --vae.frames\\)'),
        ({"env": "Acrobot-v1", "mirror": False, "vae": WHOLE}, "Acrobot-v1 needs --scripted-episodes 0"),
        (
            {"env": "Acrobot-v1", "mirror": False, "vae": WHOLE, "scripted_episodes": 0},
            "to have patience for: Acrobot-v1 needs --own-patience 0",
        ),
        (
            {"env": "Acrobot-v1", "mirror": False, "vae": WHOLE, "scripted_episodes": 0, "own_patience": 0},
            r"Acrobot-v1: use --controller\.gradient\.steps 0 --refined 0",
        ),
    ],
)
def test_a_run_without_a_mirror_patience_or_gradients_is_refused_before_it_begins(changed, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        loop.main(replace(SMOKE, run=tmp_path / "run", **changed))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("memories", [0, 5])
def test_a_run_has_as_many_memories_as_a_world_model_takes(tmp_path, memories):
    with pytest.raises(ValueError, match=f"1 to 4 memories, got .*--memories {memories}"):
        loop.main(replace(SMOKE, run=tmp_path, memories=memories))


def test_a_lone_memory_is_not_doubted(tmp_path):
    with pytest.raises(ValueError, match="no one to doubt it"):
        loop.main(replace(SMOKE, run=tmp_path, memories=1))
