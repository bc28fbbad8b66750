"""RNN-EM on static images as one would write it in PyTorch: the other side of `dense.py`.

The same network, noise, E-step and loss as `nem_jax` with Bernoulli pixels (N-EM section 2, static images), on a batch,
with pixels flattened: `x [B, 1, D]`, `psi` and `gamma [B, K, D]`, `theta [B, K, M]`.
"""

from collections.abc import Callable

import torch
from torch import nn

CLIP = 1e-6  # bound on the arguments of the logarithms


class RNNEM(nn.Module):
    """T EM steps of K components that share one recurrent cell."""

    def __init__(
        self,
        num_pixels: int,
        hidden_size: int,
        num_components: int,
        num_steps: int,
        noise_prob: float,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.rnn = nn.Linear(num_pixels + hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, num_pixels)
        self.num_components, self.num_steps = num_components, num_steps
        self.noise_prob, self.epsilon = noise_prob, epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The training loss of a batch `x [B, 1, D]`, with fresh noise at each EM step and a random initial gamma."""
        gamma = torch.randn(x.shape[0], self.num_components, x.shape[2]).abs()
        flips = torch.empty(self.num_steps, *x.shape).bernoulli_(self.noise_prob)
        return self.loss(x, (x - flips).abs(), gamma / gamma.sum(1, keepdim=True))

    def loss(self, x: torch.Tensor, x_noisy: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        """The same for given noise, `x_noisy [T, B, 1, D]`, and initial gamma: the last step's loss, batch mean."""
        theta = x.new_zeros(*gamma.shape[:2], self.rnn.out_features)
        psi = torch.zeros_like(gamma)
        for noisy in x_noisy:
            residual = gamma * (noisy - psi)
            theta = torch.sigmoid(self.rnn(torch.cat([residual, theta], dim=-1)))
            psi = torch.sigmoid(self.output(theta))
            likelihood = x * psi + (1 - x) * (1 - psi) + self.epsilon
            gamma = likelihood / likelihood.sum(1, keepdim=True)
        clipped = psi.clamp(CLIP, 1 - CLIP)
        intra = gamma * -(x * clipped.log() + (1 - x) * (1 - clipped).log())
        inter = (1 - gamma) * -(1 - psi).clamp(min=CLIP).log()
        return (intra + inter).sum() / x.shape[0]


def make_train_step(model: RNNEM, learning_rate: float, compiled: bool) -> Callable[[torch.Tensor], None]:
    """One Adam step on a batch of images; `compiled` by torch.compile, forward and backward."""
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    loss = torch.compile(model) if compiled else model

    def train_step(x: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss(x).backward()
        optimiser.step()

    return train_step
