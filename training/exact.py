"""The exact denoiser of pictures that are known: what a perfectly trained model would predict.

Its law of a text y is a mixture of normals around the latents z_k of K pictures,
p(x|y) = Σ_k w_k(y) N(x; z_k, s² I), where w_k(y) grows with the cosine of y's embedding and that of
the picture's name. Diffused it stays a mixture, so its noise prediction, and every divergence
between two texts, has a closed form: a control for trained networks, and a case of real pictures in
which the truth is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from conjure_lib import GenerativeProcess
from conjure_tools.baselines import lengths
from training.autoencoder import encoded
from training.pictures import Emoji, singles

STD = 0.1  # s, of latents of unit variance: a little more than the autoencoder's own noise
TEMPERATURE = 0.02  # of the cosines of a text and the names of pictures


@dataclass(frozen=True)
class KnownPictures:
    """The mixtures that texts mean.

    Attributes:
        centres: z, (K, D), float32.
        names: unit embeddings of the pictures' names, (K, width).
        std: s.
    """

    centres: Tensor
    names: Tensor
    std: float = STD

    def log_weights(self, embeddings: Tensor, empty: Tensor) -> Tensor:
        """log w(y), (n, K), of unit ``embeddings`` (n, width); uniform for ``empty`` texts."""
        cosine = embeddings @ self.names.T
        return cosine.masked_fill(empty[:, None], 0).div(TEMPERATURE).log_softmax(1)

    def expected(self, x: Tensor, log_weights: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x_0 | x_t, y] at x_t (n, D), for α and σ (n, 1)."""
        variance = alpha**2 * self.std**2 + sigma**2
        mean = self._joint(x, log_weights, alpha, variance).softmax(1) @ self.centres
        return mean + alpha * self.std**2 / variance * (x - alpha * mean)

    def log_prob(self, x: Tensor, log_weights: Tensor) -> Tensor:
        """log p(x|y), (n,), of clean x (n, D), less a constant of D and s."""
        one = torch.ones(())
        return self._joint(x, log_weights, one, one * self.std**2).logsumexp(1)

    def _joint(self, x: Tensor, log_weights: Tensor, alpha: Tensor, variance: Tensor) -> Tensor:
        square = x.square().sum(1, keepdim=True) - 2 * alpha * (x @ self.centres.T)
        square = square + alpha**2 * self.centres.square().sum(1)
        return log_weights - square / (2 * variance)


def at_ends(hidden: Tensor, ends: Tensor) -> Tensor:
    """Hidden states (n, tokens, width) at ``ends`` (n,), with unit length: (n, width)."""
    return F.normalize(hidden[torch.arange(len(hidden)), ends], dim=1)


def embed(process: GenerativeProcess, texts: Sequence[str]) -> Tensor:
    """Unit embeddings (n, width): the text encoder's state at the end of each text."""
    return at_ends(process.encode(list(texts)), lengths(process, texts) - 1)


@torch.no_grad()
def known_pictures(process: GenerativeProcess, emoji: Sequence[Emoji]) -> KnownPictures:
    """The pictures of ``emoji``, in the latents and the words of a model on the CPU."""
    vae: Any = process.modules["vae"]
    return KnownPictures(
        encoded(vae, singles(emoji), emoji).flatten(1) * vae.config.scaling_factor,
        embed(process, [one.name for one in emoji]),
    )


def exact_denoiser(process: GenerativeProcess, known: KnownPictures) -> GenerativeProcess:
    """A process that draws exactly the known pictures: told log w(y), it predicts what is true.

    Its texts are read, and its pictures decoded, by ``process``.
    """
    bars = process.scheduler.alphas_cumprod.float()

    def encode(texts: Sequence[str]) -> Tensor:
        empty = torch.tensor([not text for text in texts])
        return known.log_weights(embed(process, texts), empty)

    def predict(x: Tensor, t: Tensor, log_weights: Tensor) -> Tensor:
        bar = bars[t.long()][:, None]
        alpha, sigma, flat = bar.sqrt(), (1 - bar).sqrt(), x.flatten(1)
        eps = (flat - alpha * known.expected(flat, log_weights, alpha, sigma)) / sigma
        return eps.view_as(x)

    return GenerativeProcess(
        predict,
        encode,
        process.scheduler,
        process.latent_shape,
        decode=process.decode,
        name="the exact denoiser",
    )
