"""The wheel: what it holds, and that it works from anywhere with nothing but itself."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

REPOSITORY = Path(__file__).parents[1]
IDS = ["DreamCarRacing-v0", "LatentCarRacing-v0"]


def pip(*arguments):
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a clean copy of the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    rubbish = shutil.ignore_patterns(".*", "runs", "wandb", "build", "dist", "*.egg-info", "__pycache__")
    source = shutil.copytree(REPOSITORY, folder / "source", ignore=rubbish)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the installed wheel and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--target", folder, wheel)
    return folder


def run(code, installed, elsewhere):
    """Run code in a folder of its own, with the installed wheel before all else; fails on any error or warning."""
    env = {**os.environ, "PYTHONPATH": str(installed), "SDL_VIDEODRIVER": "dummy", "PYTHONSAFEPATH": ""}
    result = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_wheel_holds_the_package_with_its_weights_and_nothing_else(wheel):
    package = REPOSITORY / "wm_gym"
    files = {f"wm_gym/{path.relative_to(package)}" for path in package.rglob("*") if path.is_file()}
    expected = {name for name in files if "__pycache__" not in name}
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert names - info == expected
    assert {name.split("/")[0] for name in info} == {"wm_gym-0.1.0.dist-info"}
    assert "wm_gym/py.typed" in names
    weights = ("vae", "memory", "doubter-1", "starts")
    for part in (*(f"world_model/{name}" for name in weights), "controller/controller"):
        assert f"wm_gym/pretrained/car_racing/{part}.safetensors" in names


@pytest.mark.parametrize("imported", [True, False], ids=["import wm_gym", "wm_gym:id"])
def test_the_installed_wheel_makes_and_steps_both_envs(imported, installed, tmp_path):
    code = f"""
import gymnasium as gym
{"import wm_gym" if imported else ""}
for env_id in {IDS if imported else [f"wm_gym:{env_id}" for env_id in IDS]}:
    env = gym.make(env_id)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    for _ in range(3):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert observation in env.observation_space
        assert not terminated and not truncated
    env.close()
import wm_gym
print(wm_gym.__file__)
"""
    assert Path(run(code, installed, tmp_path).split()[-1]) == installed / "wm_gym" / "__init__.py"


def test_the_installed_wheel_has_its_controller_and_no_training_code(installed, tmp_path):
    code = """
import importlib.util, gymnasium as gym, wm_gym
assert importlib.util.find_spec("training") is None
env = gym.make("DreamCarRacing-v0", max_episode_steps=5)
(result,) = wm_gym.rollout(env, wm_gym.Controller.from_pretrained(), [0])
assert result.steps == 5
print(wm_gym.WorldModel.from_pretrained().config.training["label"])
"""
    assert run(code, installed, tmp_path).strip() in ("privileged", "from scratch")
    assert not (installed / "benchmarks").exists()  # other packages have one of that name
