"""The further memories of a world model, which doubt its dreams, in its artifact."""

import json

import pytest
import torch
from conftest import MEMORIES, make_world_model

import wm_gym
from wm_gym.world_model import WorldModel


@pytest.mark.parametrize("kind", MEMORIES)
def test_doubters_come_back_in_their_order(kind, tmp_path):
    made = make_world_model(kind, doubters=2)
    made.save(tmp_path / "model")
    model = WorldModel.load(tmp_path / "model")
    assert model.config.doubters == 2
    for mine, its in zip((model.memory, *model.doubters), (made.memory, *made.doubters), strict=True):
        for name, weights in mine.state_dict().items():
            assert torch.equal(weights, its.state_dict()[name].half().float())
            assert not weights.requires_grad
    first, second = (dict(each.state_dict()) for each in model.doubters)
    assert not torch.equal(first["heads.weight"], second["heads.weight"])
    with pytest.raises(ValueError, match="the config has 2 doubters, got 1"):
        WorldModel(made.config, made.vae, made.memory, made.starts, made.doubters[:1])
    (tmp_path / "model" / "doubter-2.safetensors").unlink()
    with pytest.raises(wm_gym.ArtifactError, match=r"doubter-2\.safetensors: missing"):
        WorldModel.load(tmp_path / "model")


@pytest.mark.parametrize("doubters", [-1, 4, 10**9, True, 1.0, "1", None])
def test_a_number_of_doubters_that_can_not_be_is_refused(tmp_path, doubters):
    path = tmp_path / "model" / "config.json"
    make_world_model().save(path.parent)
    path.write_text(json.dumps({**json.loads(path.read_text()), "doubters": doubters}))
    with pytest.raises(wm_gym.ArtifactError, match=r"config\.json.*doubters"):
        WorldModel.load(path.parent)
