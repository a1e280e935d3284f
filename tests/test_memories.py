"""What only a Transformer or an ensemble does, and that the LSTM is what it was."""

import numpy as np
import pytest
import torch
from test_models import toy_episodes
from torch.nn import functional as F

from training.latents import Sequences
from training.train_rnn import losses
from wm_gym.car_racing import lap_reward
from wm_gym.models.ensemble import Ensemble, EnsembleConfig
from wm_gym.models.kinds import KINDS, make_memory
from wm_gym.models.mdn_rnn import MDNRNN, MDNRNNConfig
from wm_gym.models.memory import mixture_nll
from wm_gym.models.transformer import Transformer, TransformerConfig


def unrolled(memory, z, actions):
    with torch.no_grad():
        return memory.unroll(z, actions, memory.initial_state(len(z)))[0]


def inputs(lanes, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(lanes, steps, 32, generator=generator), torch.rand(lanes, steps, 3, generator=generator)


# --- the LSTM ------------------------------------------------------------------------------------------------------


def test_losses_of_the_lstm_are_to_the_bit_those_without_members():
    torch.manual_seed(0)
    memory = MDNRNN(MDNRNNConfig(1, 1, 16, 2))
    part = Sequences.of(toy_episodes(np.random.default_rng(0), 7, 12), torch.device("cpu"), lap_reward())
    steps, state = slice(0, part.actions.shape[1]), memory.initial_state(7)
    each, _ = losses(memory, part.mu, part, steps, state)
    prediction = memory.predict(memory.unroll(part.mu[:, steps], part.actions, state)[0])
    expected = torch.stack(
        [
            mixture_nll(prediction, part.mu[:, 1:]),
            F.poisson_nll_loss(prediction.gain, part.gains, log_input=False, reduction="none"),
            F.binary_cross_entropy_with_logits(prediction.end_logit, part.ended, reduction="none"),
        ]
    )
    expected = (expected * part.valid).sum((1, 2)) / part.valid.sum().clamp_min(1)
    assert torch.equal(each, expected)
    grads = (torch.autograd.grad(loss.sum(), list(memory.parameters())) for loss in (each, expected))
    assert all(map(torch.equal, *grads))


def test_padding_counts_for_nothing():
    torch.manual_seed(0)
    memory, drives = MDNRNN(MDNRNNConfig(1, 1, 16, 2)), toy_episodes(np.random.default_rng(0), 5, 12)

    def lost(*drives):
        part = Sequences.of(drives, torch.device("cpu"), lap_reward())
        steps = slice(0, part.actions.shape[1])
        mean, _ = losses(memory, part.mu, part, steps, memory.initial_state(len(drives)))
        return mean * sum(len(each.actions) for each in drives)

    assert len({len(each.actions) for each in drives}) > 1
    torch.testing.assert_close(lost(*drives), sum(lost(each) for each in drives))


@pytest.mark.parametrize("config", [sizes() for sizes, _ in KINDS.values()], ids=KINDS)
def test_a_window_that_no_start_fills_makes_no_trouble(config):
    memory = make_memory(config)
    state = memory.step(torch.zeros(0, 32), torch.zeros(0, 3), memory.initial_state(0))
    assert [len(part) for part in state] == [0] * len(state)


@pytest.mark.parametrize("config", [sizes() for sizes, _ in KINDS.values()], ids=KINDS)
def test_what_a_lane_takes_is_not_made_small(config):
    state = make_memory(config).initial_state(1)
    assert sum(part.numel() for part in state) <= config.lane_size  # an artifact's starts are refused by it


# --- the Transformer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 3])
def test_a_transformer_sees_its_window_and_nothing_of_the_future(layers):
    torch.manual_seed(0)
    memory, steps, at = Transformer(TransformerConfig(layers=layers, context=4)), 30, 9
    z, actions = inputs(1, steps)
    changed = z.clone()
    changed[:, at] += 1
    moved = (unrolled(memory, z, actions) - unrolled(memory, changed, actions)).abs().amax((0, 2))
    reach = layers * 3
    assert not moved[:at].any()
    assert (moved[at : at + reach + 1] > 0).all()
    assert not moved[at + reach + 1 :].any()


def test_chunks_that_hand_their_caches_on_are_one_sequence():
    torch.manual_seed(0)
    memory = Transformer(TransformerConfig(context=5))
    z, actions = inputs(2, 40)
    whole, parts, state = unrolled(memory, z, actions), [], memory.initial_state(2)
    with torch.no_grad():
        for steps in (slice(0, 3), slice(3, 20), slice(20, 40)):
            hidden, state = memory.unroll(z[:, steps], actions[:, steps], state)
            parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)


def test_a_transformer_is_attention_as_torch_computes_it():
    torch.manual_seed(0)
    config = TransformerConfig(layers=1, context=6)
    memory = Transformer(config)
    (layer,) = memory.layers
    torch.nn.init.normal_(layer.recency)
    z, actions = inputs(2, 6)
    with torch.no_grad():
        x = memory.embed(torch.cat([z, actions], -1))
        q, k, v = layer.project(layer.norm(x)).split([112, 28, 28], -1)
        k, v = (F.pad(part, (0, 0, 5, 0)).unsqueeze(1).expand(-1, 4, -1, -1) for part in (k, v))
        age = torch.arange(6)[:, None] + 5 - torch.arange(11)
        bias = layer.recency.flip(1)[:, age.clamp(0, 5)].masked_fill((age < 0) | (age > 5), -torch.inf)
        mixed = F.scaled_dot_product_attention(q.unflatten(-1, (4, 28)).transpose(1, 2), k, v, bias)
        x = x + layer.mix(mixed.transpose(1, 2).flatten(2))
        expected = memory.summary(x + layer.feedforward(x)).tanh()
    torch.testing.assert_close(unrolled(memory, z, actions), expected, atol=1e-5, rtol=0)


def test_the_default_transformer_is_as_large_as_the_default_lstm():
    sizes = [sum(p.numel() for p in module().parameters()) for module in (MDNRNN, Transformer)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


# --- the ensemble --------------------------------------------------------------------------------------------------


def taken_apart(ensemble):
    """The members as MDN-RNNs of their own."""
    config, alone = ensemble.config, []
    for m in range(config.members):
        member = MDNRNN(MDNRNNConfig(config.latent_size, config.action_size, config.member_size, config.mixtures))
        i, f, o, g = ensemble.gates.weight[m].detach().chunk(4)
        bi, bf, bo, bg = ensemble.gates.bias[m].detach().chunk(4)
        seen = config.latent_size + config.action_size
        member.load_state_dict(
            {
                "lstm.weight_ih_l0": torch.cat([i, f, g, o])[:, :seen],
                "lstm.weight_hh_l0": torch.cat([i, f, g, o])[:, seen:],
                "lstm.bias_ih_l0": torch.cat([bi, bf, bg, bo]),
                "lstm.bias_hh_l0": torch.zeros(4 * config.member_size),
                "heads.weight": ensemble.heads.weight[m].detach(),
                "heads.bias": ensemble.heads.bias[m].detach(),
            }
        )
        alone.append(member)
    return alone


@pytest.fixture(scope="module")
def ensemble():
    torch.manual_seed(0)
    return Ensemble(EnsembleConfig(members=4)).requires_grad_(False)


def test_an_ensemble_is_its_members_side_by_side(ensemble):
    z, actions = inputs(3, 12)
    hidden, alone = unrolled(ensemble, z, actions), taken_apart(ensemble)
    each = ensemble.members(hidden)
    for m, member in enumerate(alone):
        its = unrolled(member, z, actions)
        torch.testing.assert_close(hidden[..., 64 * m : 64 * (m + 1)], its, atol=1e-5, rtol=0)
        for mine, expected in zip(each[:5], member.predict(its)[:5], strict=True):
            torch.testing.assert_close(mine[m], expected.detach(), atol=1e-5, rtol=1e-5)


def test_an_ensemble_predicts_the_equal_mixture_of_its_members(ensemble):
    hidden, z = 3 * torch.randn(5, 256, generator=torch.Generator().manual_seed(1)), inputs(5, 1)[0][:, 0]
    together, each = ensemble.predict(hidden), ensemble.members(hidden)
    log_normal = torch.distributions.Normal(each.mu, each.log_sigma.exp()).log_prob(z.unsqueeze(-1))
    density = (each.logits.softmax(-1) * log_normal.exp()).sum(-1).mean(0)
    torch.testing.assert_close(mixture_nll(together, z), -density.log().sum(-1), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(together.gain, each.gain.mean(0))
    torch.testing.assert_close(together.end_logit.sigmoid(), each.end_logit.sigmoid().mean(0))


def test_disagreement_is_the_spread_of_means_in_units_of_the_members_own(ensemble):
    hidden = torch.randn(5, 256, generator=torch.Generator().manual_seed(1))
    logits, mu, log_sigma = (part.double().numpy() for part in ensemble.members(hidden)[:3])
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    mean = (weights * mu).sum(-1)
    own = (weights * (np.exp(2 * log_sigma) + mu**2)).sum(-1) - mean**2
    expected = (mean.var(0, ddof=1) / own.mean(0)).mean(-1)
    np.testing.assert_allclose(ensemble.predict(hidden).disagreement, expected, rtol=1e-4)


def test_members_that_are_alike_agree_and_disagree_when_one_is_moved():
    torch.manual_seed(0)
    memory = Ensemble(EnsembleConfig(members=3, hidden_size=48)).requires_grad_(False)
    for weights in memory.parameters():
        weights[:] = weights[:1].clone()
    hidden = unrolled(memory, *inputs(2, 5))
    assert memory.predict(hidden).disagreement.max() < 1e-6
    memory.heads.bias[1, 160:320] += 1  # mu
    assert memory.predict(hidden).disagreement.min() > 0.01


def test_a_member_learns_from_its_own_errors_alone():
    torch.manual_seed(0)
    part = Sequences.of(toy_episodes(np.random.default_rng(0), 5, 9), torch.device("cpu"), lap_reward())
    memory = Ensemble(EnsembleConfig(1, 1, 8, 2, members=2))
    steps, gradients = slice(0, part.actions.shape[1]), []
    for _ in range(2):
        each, _ = losses(memory, part.mu, part, steps, memory.initial_state(5))
        gradients.append(torch.autograd.grad(each.sum(), list(memory.parameters())))
        with torch.no_grad():
            for weights in memory.parameters():
                weights[1] += 1
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first[0], second[0])
        assert first[0].any() and not torch.equal(first[1], second[1])
