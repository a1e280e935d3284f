"""The lanes of a vector env are single envs of their seeds, and many draw from what the memory predicts."""

import numpy as np
import pytest
import torch
from conftest import Z, assert_steps_equal, every_dream, every_task, stepped_once
from gymnasium.vector import AutoresetMode

FALSE = np.zeros(256, bool)

# --- a lane is a single env ----------------------------------------------------------------------------------------


@every_dream
@pytest.mark.parametrize("starts", ["episode", "any"])
@pytest.mark.parametrize(("lanes", "compared"), [(1, [0]), (7, range(7)), (256, [0, 31, 200, 255])])
def test_a_lane_is_the_single_env_of_its_seed(make_vec, make, lanes, compared, starts, random_actions):
    envs = make_vec(lanes, starts=starts)
    actions = random_actions(30, lanes)
    steps = [(envs.reset(seed=10)[0],)] + [envs.step(batch) for batch in actions]
    assert steps[0][0].shape == (lanes, 288)
    env = make(starts=starts)
    for lane in compared:
        expected, over = env.reset(seed=10 + lane)[0], False
        np.testing.assert_allclose(steps[0][0][lane], expected, atol=1e-5)
        for i, (observation, reward, terminated, truncated, infos) in enumerate(steps[1:]):
            result = (env.reset()[0], 0.0, False, False, {}) if over else env.step(actions[i, lane])
            expected, reward_expected, over, _, info = result
            np.testing.assert_allclose(observation[lane], expected, atol=1e-5 if i == 0 else 1e-3)
            assert reward[lane] == pytest.approx(reward_expected, abs=1e-5 if i == 0 else 1e-3)
            assert (terminated[lane], truncated[lane]) == (over, False)
            assert bool(infos.get("_lap_finished", FALSE)[lane]) == ("lap_finished" in info)
            if "lap_finished" in info:
                assert infos["lap_finished"][lane] == info["lap_finished"]


@every_dream
@pytest.mark.parametrize("lanes", [1, 7, 256])
def test_one_step_from_equal_states_agrees_at_any_number_of_lanes(make_vec, make, lanes, random_actions):
    env = make(starts="any")
    env.reset(seed=0, options={"start": 15})
    state = env.unwrapped.get_state()
    envs = make_vec(lanes)
    envs.reset(options={"state": state})
    action = random_actions(1)[0]
    observation, reward, terminated, *_ = env.step(action)
    many = envs.step(np.stack([action] * lanes))
    np.testing.assert_allclose(many[0], np.tile(observation, (lanes, 1)), atol=1e-5)
    np.testing.assert_allclose(many[1], reward, atol=1e-5)
    assert (many[2] == terminated).all()


@every_dream
def test_a_lane_does_not_depend_on_its_neighbours(make_vec, random_actions):
    mine, theirs = random_actions(30, 1), (random_actions(30, 7, seed=seed) for seed in (1, 2))
    seen = []
    for seeds, neighbours in zip(([1, 2, 3, 40, 5, 6, 7], [8, 9, 10, 40, 11, 12, 13]), theirs, strict=True):
        envs = make_vec(7)
        steps = [envs.reset(seed=seeds)[0]]
        neighbours[:, 3] = mine[:, 0]
        steps += [envs.step(batch)[0] for batch in neighbours]
        seen.append(np.stack(steps))
    np.testing.assert_allclose(seen[0][:2, 3], seen[1][:2, 3], atol=1e-5)
    np.testing.assert_allclose(seen[0][:, 3], seen[1][:, 3], atol=1e-3)
    assert not np.allclose(seen[0][-1, 2], seen[1][-1, 2], atol=1e-3)


@every_dream
def test_same_seed_and_actions_give_the_same_dreams_bit_for_bit(make_vec, random_actions):
    one, other = make_vec(7, starts="any"), make_vec(7, starts="any")
    for envs in (one, other):
        envs.reset(seed=4)
    for actions in random_actions(60, 7):
        assert_steps_equal(one.step(actions), other.step(actions))


@every_dream
@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_dream(make_vec, threads, random_actions):
    actions, seen = random_actions(10, 256), []
    for count in (1, threads):  # the fixture sets one again
        torch.set_num_threads(count)
        envs = make_vec(256, starts="any")
        steps = [envs.reset(seed=3)[0]] + [envs.step(batch)[0] for batch in actions]
        seen.append(np.stack(steps))
    assert torch.get_num_threads() == threads
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-4)


# --- seeds ---------------------------------------------------------------------------------------------------------


@every_task
def test_a_number_seeds_lane_i_with_that_much_more(make_vec):
    one, other = make_vec(3), make_vec(3)
    for seeds in (5, np.int64(5), [5, 6, 7], (5, 6, 7), np.array([5, 6, 7])):
        assert np.array_equal(stepped_once(one, seed=5), stepped_once(other, seed=seeds))
    assert not np.allclose(stepped_once(one, seed=5), stepped_once(other, seed=[7, 5, 6]))


@every_task
def test_a_lane_seeded_with_none_keeps_its_stream(make_vec):
    one, other = make_vec(3), make_vec(3)
    for envs in (one, other):
        stepped_once(envs, seed=0)
    fresh, kept = stepped_once(one, seed=[5, None, 7]), stepped_once(other)
    assert np.array_equal(fresh[1], kept[1])
    assert np.array_equal(fresh[[0, 2]], stepped_once(other, seed=5)[[0, 2]])


@every_task
def test_unseeded_envs_differ(make_vec):
    assert not np.allclose(stepped_once(make_vec(2)), stepped_once(make_vec(2)))


# --- the distribution of a step ------------------------------------------------------------------------------------


@every_dream
def test_ends_come_with_their_probability(make_vec, random_actions):
    envs = make_vec(2000, starts="any")
    envs.reset(seed=0)
    observation, _, terminated, _, _ = envs.step(random_actions(1, 2000)[0])
    memory = envs.dream.world_model.memory
    probability = memory.predict(torch.from_numpy(observation[:, Z:])).end_logit.sigmoid().numpy()
    assert terminated.sum() > 20
    assert abs(terminated.sum() - probability.sum()) < 4 * np.sqrt((probability * (1 - probability)).sum())


@every_dream
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_latents_come_from_the_mixture_at_its_temperature(make_vec, make, temperature, coast):
    env = make()
    env.reset(seed=0, options={"start": 14})
    lanes = 8000
    envs = make_vec(lanes, temperature=temperature, autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=1, options={"state": env.unwrapped.get_state()})
    observation, *_ = envs.step(np.stack([coast] * lanes))
    prediction = envs.dream.world_model.memory.predict(torch.from_numpy(observation[0, Z:]))
    logits, mu, log_sigma = (part.numpy().astype(float) for part in prediction[:3])
    weight = np.exp(logits / temperature)
    weight /= weight.sum(axis=1, keepdims=True)
    mean = (weight * mu).sum(axis=1)
    variance = (weight * (np.exp(2 * log_sigma) * temperature + mu**2)).sum(axis=1) - mean**2
    z = observation[:, :Z]
    assert (abs(z.mean(axis=0) - mean) < 5 * np.sqrt(variance / lanes)).all()
    np.testing.assert_allclose(z.var(axis=0), variance, rtol=0.25)
    assert z.var(axis=0).mean() == pytest.approx(variance.mean(), rel=0.05)
