"""The models against reference computations, and the contract of time on a toy sequence."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, MixtureSameFamily, Normal, kl_divergence

from training.latents import LatentEpisode, Sequences, draw
from training.train_rnn import losses
from wm_gym.car_racing import lap_reward
from wm_gym.models import vae as v
from wm_gym.models.controller import Controller, ControllerConfig
from wm_gym.models.ensemble import EnsembleConfig
from wm_gym.models.kinds import make_memory
from wm_gym.models.mdn_rnn import MDNRNNConfig
from wm_gym.models.memory import Prediction, mixture_mode, mixture_nll, mixture_spread, put, sample_mixture, select
from wm_gym.models.transformer import TransformerConfig

MEMORIES = [MDNRNNConfig(), TransformerConfig(context=7), EnsembleConfig()]
TOYS = [
    MDNRNNConfig(1, 1, 16, 2),
    TransformerConfig(1, 1, 16, 2, width=16, attention_heads=2, context=3),
    EnsembleConfig(1, 1, 32, 2, members=2),
]


def random_prediction(*lead: int, latents: int = 32, mixtures: int = 5, seed: int = 0) -> Prediction:
    generator = torch.Generator().manual_seed(seed)
    logits, mu, log_sigma = torch.randn(3, *lead, latents, mixtures, generator=generator).unbind(0)
    return Prediction(2 * logits, 3 * mu, log_sigma, torch.zeros(lead), torch.zeros(lead))


def test_the_vae_keeps_the_contracts_of_shape_and_range():
    model = v.VAE()
    frames = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    mu, logvar = model.encode(frames)
    decoded = model.decode(mu)
    assert mu.shape == logvar.shape == (3, 32)
    assert decoded.shape == (3, 64, 64, 3)
    assert decoded.min() >= 0 and decoded.max() <= 1


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_a_frame_alone_is_encoded_as_in_a_batch_and_as_torch_convolves(memory_format):
    model = v.VAE(v.VAEConfig(channels=(5, 7, 11, 13))).to(memory_format=memory_format)
    frames = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    together, alone = model.encode(frames), [model.encode(frames[i : i + 1]) for i in range(3)]
    features = frames.permute(0, 3, 1, 2) / 255
    for layer in model.encoder[:-1:2]:
        features = torch.conv2d(features, layer.weight, layer.bias, stride=2).relu()
    for i, whole in enumerate(together):
        torch.testing.assert_close(torch.cat([each[i] for each in alone]), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[0], model.mu(features.flatten(1)), atol=1e-5, rtol=1e-5)


@given(seed=st.integers(0, 999), free_bits=st.floats(0, 3))
@settings(deadline=None, max_examples=20)
def test_the_vae_loss_is_summed_squared_error_and_kl_with_free_bits(seed, free_bits):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8, generator=generator)
    reconstruction = torch.rand(4, 64, 64, 3, generator=generator)
    mu, logvar = torch.randn(2, 4, 32, generator=generator).unbind(0)
    error, kl = v.vae_loss(reconstruction, frames, mu, logvar, free_bits)

    expected = ((reconstruction.double().numpy() - frames.numpy() / 255) ** 2).sum(axis=(1, 2, 3)).mean()
    each = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0, 1))
    assert error.item() == pytest.approx(expected, rel=1e-4)
    assert torch.allclose(v.kl_divergence(mu, logvar), each, atol=1e-5)
    assert kl.item() == pytest.approx(np.maximum(each.mean(0).numpy(), free_bits).sum(), rel=1e-4)


def test_samples_of_the_posterior_have_its_mean_and_spread():
    mu, logvar = torch.tensor([1.0, -2.0]), torch.tensor([0.0, -2.0])
    noise = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0))
    z = v.sample_latent(mu, logvar, noise)
    assert torch.allclose(z.mean(0), mu, atol=0.01)
    assert torch.allclose(z.std(0), (logvar / 2).exp(), rtol=0.01)


@given(seed=st.integers(0, 999))
@settings(deadline=None, max_examples=20)
def test_the_mixtures_likelihood_and_spread_are_those_of_torch_distributions(seed):
    prediction = random_prediction(7, seed=seed)
    z = 3 * torch.randn(7, 32, generator=torch.Generator().manual_seed(seed + 1))
    mixture = MixtureSameFamily(
        Categorical(logits=prediction.logits), Normal(prediction.mu, prediction.log_sigma.exp())
    )
    assert torch.allclose(mixture_nll(prediction, z), -mixture.log_prob(z).sum(-1), rtol=1e-4)
    assert torch.allclose(mixture_spread(prediction), mixture.stddev, rtol=1e-4)


def test_the_mode_is_the_mean_of_the_likeliest_component():
    prediction = random_prediction(6)
    mode = mixture_mode(prediction)
    probabilities = Categorical(logits=prediction.logits).probs
    for lane in range(6):
        for latent in range(32):
            assert mode[lane, latent] == prediction.mu[lane, latent, probabilities[lane, latent].argmax()]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.3, 3.0])
def test_temperature_divides_logits_and_multiplies_variance(temperature):
    logits = torch.tensor([[0.5, -1.0, 1.0, 0.0, -0.5]])
    mu = torch.tensor([[-2000.0, -1000.0, 0.0, 1000.0, 2000.0]])
    sigma = torch.tensor([[0.1, 0.5, 1.0, 2.0, 4.0]])
    prediction = Prediction(logits, mu, sigma.log(), torch.zeros(1), torch.zeros(1))
    draws, generator = 200_000, torch.Generator().manual_seed(0)
    uniform, normal = torch.rand(draws, 1, generator=generator), torch.randn(draws, 1, generator=generator)
    z = sample_mixture(
        Prediction(*(part.expand(draws, *part.shape) for part in prediction[:5])), temperature, uniform, normal
    )

    component = ((z + 2500) // 1000).long().flatten()
    frequencies = torch.bincount(component, minlength=5) / draws
    assert torch.allclose(frequencies, (logits[0] / temperature).softmax(-1), atol=0.005)
    for k in range(5):
        spread = z.flatten()[component == k].std()
        if frequencies[k] > 0.01:
            assert spread.item() == pytest.approx(sigma[0, k].item() * temperature**0.5, rel=0.05)


@pytest.mark.parametrize("config", MEMORIES, ids=lambda config: type(config).__name__)
@given(seed=st.integers(0, 999), lanes=st.integers(1, 5), steps=st.integers(1, 20))
@settings(deadline=None, max_examples=20)
def test_step_and_unroll_agree(config, seed, lanes, steps):
    torch.manual_seed(seed)
    memory = make_memory(config)
    z, actions = torch.randn(lanes, steps, 32), torch.rand(lanes, steps, 3)
    state = tuple(torch.randn_like(part) for part in memory.initial_state(lanes))
    with torch.no_grad():
        hidden, last = memory.unroll(z, actions, state)
        for t in range(steps):
            state = memory.step(z[:, t], actions[:, t], state)
            assert torch.allclose(memory.hidden(state), hidden[:, t], atol=1e-5)
    for part, expected in zip(state, last, strict=True):
        assert torch.allclose(part, expected, atol=1e-5)


@pytest.mark.parametrize("config", MEMORIES, ids=lambda config: type(config).__name__)
def test_a_memory_begins_at_zero(config):
    memory = make_memory(config)
    assert all(not part.any() for part in memory.initial_state(3))
    assert memory.hidden(memory.initial_state(3)).shape == (3, 256)


def test_select_and_put_exchange_lanes():
    state = (torch.arange(12.0).view(4, 3), torch.arange(4.0).view(4, 1))
    lanes = torch.tensor([3, 1])
    changed = put(state, lanes, tuple(-part for part in select(state, lanes)))
    assert torch.equal(changed[0], state[0] * torch.tensor([[1.0], [-1], [1], [-1]]))
    assert torch.equal(select(state, torch.tensor([False, True, False, True]))[1], torch.tensor([[1.0], [3]]))
    assert torch.equal(state[1], torch.arange(4.0).view(4, 1))


def toy_episodes(rng: np.random.Generator, episodes: int, steps: int) -> list[LatentEpisode]:
    """The action 1 visits two tiles at once and makes the next latent 1, the action -1 is fatal, 0 does nothing."""
    drives = []
    for seed in range(episodes):
        actions = (rng.random((rng.integers(steps // 2, steps + 1), 1)) < 0.3).astype(np.float32)
        failed = bool(rng.random() < 0.5)
        if failed:
            actions[-1] = -1
        pays = actions > 0
        mu = np.concatenate([[[0]], pays]).astype(np.float32)
        drives.append(
            LatentEpisode(
                seed=seed,
                vae="",
                mu=mu,
                logvar=np.full_like(mu, -5),
                actions=actions,
                gains=2 * pays[:, 0].astype(np.float32),
                goal=295,
                ended=failed,
                label="random",
            )
        )
    return drives


@pytest.mark.parametrize("config", TOYS, ids=lambda config: type(config).__name__)
def test_the_step_that_takes_an_action_is_the_one_that_pays_dreams_and_fails_for_it(config):
    torch.manual_seed(0)
    rng, noise = np.random.default_rng(0), torch.Generator().manual_seed(0)
    memory = make_memory(config)
    optimizer = torch.optim.Adam(memory.parameters(), lr=0.02)
    for _ in range(200):
        part = Sequences.of(toy_episodes(rng, 32, 12), torch.device("cpu"), lap_reward())
        steps = slice(0, part.actions.shape[1])
        each, _ = losses(memory, draw(part, "sample", noise), part, steps, memory.initial_state(32))
        optimizer.zero_grad()
        each.sum().backward()
        optimizer.step()

    with torch.no_grad():
        state, z = memory.initial_state(1), torch.zeros(1, 1)
        for action, tiles, failed in [(0, 0, 0), (1, 2, 0), (0, 0, 0), (0, 0, 0), (1, 2, 0), (-1, 0, 1)]:
            state = memory.step(z, torch.tensor([[float(action)]]), state)
            prediction = memory.predict(memory.hidden(state))
            z = mixture_mode(prediction)
            assert prediction.gain.item() == pytest.approx(tiles, abs=0.4)
            assert prediction.end_logit.sigmoid().item() == pytest.approx(failed, abs=0.2)
            assert z.item() == pytest.approx(tiles / 2, abs=0.2)


def test_rows_count_as_they_weigh():
    frames, picture = torch.zeros(2, 64, 64, 3, dtype=torch.uint8), torch.zeros(2, 64, 64, 3)
    picture[0, 60, 5] = picture[1, 5, 60] = 1
    weight = torch.ones(64)
    weight[56:] = 4
    assert v.squared_error(picture, frames, weight).tolist() == [12, 3]


@given(seed=st.integers(0, 999), scale=st.floats(0, 100))
@settings(deadline=None, max_examples=20)
def test_a_controller_stays_in_its_box(seed, scale):
    rng = np.random.default_rng(seed)
    config = ControllerConfig()
    controller = Controller(scale * rng.standard_normal(config.parameters), config)
    actions, _ = controller.predict(rng.standard_normal((9, 288)))
    assert actions.shape == (9, 3) and actions.dtype == np.float32
    assert (actions >= config.low).all() and (actions <= config.high).all()
    assert not Controller(None, config).predict(rng.standard_normal(288))[0].any()


@pytest.mark.parametrize(("low", "high"), [((-1.0, 0.0, 0.0), (1.0, 1.0, 1.0)), ((-2.0, -0.5, 0.0), (2.0, 3.0, 0.2))])
def test_a_controller_is_one_linear_layer_and_a_squash(low, high):
    rng = np.random.default_rng(0)
    parameters = 0.1 * rng.standard_normal(3 * 289)
    observation = rng.standard_normal(288)
    rows = parameters.reshape(3, 289)
    scale = np.maximum(np.abs(low), np.abs(high))
    expected = np.clip(scale * np.tanh(rows[:, :288] @ observation + rows[:, 288]), low, high)
    controller = Controller(parameters, ControllerConfig(288, low, high))
    assert np.allclose(controller.predict(observation)[0], expected, atol=1e-5)
    assert np.allclose(controller.predict(np.stack([observation] * 4))[0], expected, atol=1e-5)


def test_each_lane_of_a_population_is_one_of_its_members(tmp_path):
    rng = np.random.default_rng(0)
    population = Controller(rng.standard_normal((5, 3 * 289)) * 0.05)
    observations = rng.standard_normal((5, 288)).astype(np.float32)
    actions = population.predict(observations)[0]
    population.save(tmp_path / "population")
    loaded = Controller.from_pretrained(tmp_path / "population")
    for i in range(5):
        assert np.allclose(loaded.member(i).predict(observations[i])[0], actions[i], atol=1e-6)
        assert np.array_equal(loaded.member(i + 5).parameters, population.parameters[i])


def test_parameters_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"867.*got \(10,\)"):
        Controller(np.zeros(10))
