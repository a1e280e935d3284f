"""V: the variational autoencoder that turns a frame into z (Ha & Schmidhuber 2018, appendix A.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wm_gym.artifact import check_sizes


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of the VAE.

    Attributes:
        latent_size: length of z.
        channels: of the four stride-2 convolutions of the encoder.
    """

    latent_size: int = 32
    channels: tuple[int, int, int, int] = (32, 64, 128, 256)

    def __post_init__(self) -> None:
        check_sizes(self, "latent_size", "channels")
        if len(self.channels) != 4:
            raise ValueError(f"a VAE has four convolutions, got channels {self.channels}")


class Convolution(nn.Conv2d):
    """A convolution that computes a single frame's as a matrix product of its patches: faster than oneDNN's there."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ``(B, C, H, W)`` features of ``(B, F, H', W')``."""
        if len(input) > 1 or input.device.type != "cpu":
            return super().forward(input)
        (height, width), (down, right) = self.kernel_size, self.stride
        patches = input.permute(0, 2, 3, 1).unfold(1, height, down).unfold(2, width, right)
        rows = patches.permute(0, 1, 2, 4, 5, 3).flatten(3)
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)  # a view: the format is channels_last
        return F.linear(rows, weight, self.bias).permute(0, 3, 1, 2)


class FromPoint(nn.ConvTranspose2d):
    """A transposed convolution of 1x1 features, computed as the matrix product that it is: faster."""

    def forward(self, features: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return ``(B, C, K, K)`` for features ``(B, F, 1, 1)``."""
        weight = self.weight.permute(0, 2, 3, 1)  # in memory as it is, where the format is channels_last
        pixels = (features.flatten(1) @ weight.flatten(1)).unflatten(1, weight.shape[1:]) + self.bias
        return pixels.permute(0, 3, 1, 2)


class VAE(nn.Module):
    """Convolutional VAE on 64x64 RGB frames.

    The encoder's four 4x4 convolutions of stride 2 end in 2x2 features that give mu and logvar; the decoder's
    transposed convolutions (5, 5, 6, 6 wide, stride 2) go from 1x1 back to 64x64.
    """

    def __init__(self, config: VAEConfig = VAEConfig()) -> None:
        super().__init__()
        self.config = config
        a, b, c, d = config.channels
        features = d * 2 * 2
        self.encoder = nn.Sequential(
            *(Convolution(3, a, 4, 2), nn.ReLU()),  # 31x31
            *(Convolution(a, b, 4, 2), nn.ReLU()),  # 14x14
            *(Convolution(b, c, 4, 2), nn.ReLU()),  # 6x6
            *(Convolution(c, d, 4, 2), nn.ReLU()),  # 2x2
            nn.Flatten(),
        )
        self.mu = nn.Linear(features, config.latent_size)
        self.logvar = nn.Linear(features, config.latent_size)
        self.decoder = nn.Sequential(
            *(nn.Linear(config.latent_size, features), nn.Unflatten(1, (features, 1, 1))),
            *(FromPoint(features, c, 5), nn.ReLU()),  # 5x5
            *(nn.ConvTranspose2d(c, b, 5, 2), nn.ReLU()),  # 13x13
            *(nn.ConvTranspose2d(b, a, 6, 2), nn.ReLU()),  # 30x30
            *(nn.ConvTranspose2d(a, 3, 6, 2), nn.Sigmoid()),  # 64x64
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as frames are: nothing is reordered

    @torch.no_grad()
    def begin_at(self, colour: Tensor) -> None:
        """Let a new V decode all z to about one colour, ``(3,)`` in [0, 1].

        At the mean of its frames it begins near them. Else its first steps make up for all of their brightness at once,
        and where most of a picture is white it may never learn more than the mean picture.
        """
        *_, bias = self.decoder.parameters()
        bias.copy_(torch.logit(colour, eps=1e-3))

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of q(z | frame), each float ``(B, Z)``, for uint8 frames ``(B, 64, 64, 3)``."""
        features = self.encoder(to_unit(frames).permute(0, 3, 1, 2))
        return self.mu(features).float(), self.logvar(features).float().clamp(-10, 10)

    def decode(self, z: Tensor) -> Tensor:
        """Return frames in [0, 1], float ``(B, 64, 64, 3)``, for z ``(B, Z)``."""
        return self.decoder(z).float().permute(0, 2, 3, 1)

    def frames(self, z: Tensor) -> npt.NDArray[np.uint8]:
        """Decode z ``(B, Z)`` to frames as an encoder takes them, uint8 ``(B, 64, 64, 3)``."""
        return (self.decode(z) * 255).round().to(torch.uint8).cpu().numpy()


def to_unit(frames: Tensor) -> Tensor:
    """Scale uint8 pixels to [0, 1], float32."""
    return frames.float() / 255


def sample_latent(mu: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Reparameterise: z = mu + exp(logvar / 2) · noise, with noise ~ N(0, I); all ``(..., Z)``."""
    return mu + (0.5 * logvar).exp() * noise


def squared_error(reconstruction: Tensor, frames: Tensor, row_weight: Tensor | None = None) -> Tensor:
    """Return the squared error summed over pixels and colours in [0, 1], ``(B,)``, of float against uint8 frames.

    Args:
        reconstruction: float ``(B, 64, 64, 3)``.
        frames: uint8 ``(B, 64, 64, 3)``.
        row_weight: how much each row of pixels counts, ``(64,)``; each once by default.
    """
    error = F.mse_loss(reconstruction, to_unit(frames), reduction="none").sum((2, 3))
    return (error if row_weight is None else error * row_weight).sum(1)


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(q(z | frame) || N(0, 1)) of each latent in nats, ``(B, Z)``."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


def vae_loss(
    reconstruction: Tensor,
    frames: Tensor,
    mu: Tensor,
    logvar: Tensor,
    free_bits: float,
    row_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the mean summed squared error and the mean KL with free bits, in nats; their sum is the loss.

    A batch's KL below ``free_bits`` nats per latent costs nothing more than ``free_bits`` (Kingma et al. 2016; the
    original code of World Models bounds the sum over latents), so no latent collapses to save a little KL.
    """
    kl = kl_divergence(mu, logvar).mean(0).clamp_min(free_bits).sum()
    return squared_error(reconstruction, frames, row_weight).mean(), kl
