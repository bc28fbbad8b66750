"""The convolutional RNN-EM of flying shapes and flying MNIST as one would write it in PyTorch.

The same networks (N-EM appendix A.2 and A.3), E-step, losses and stopped gradients as `nem_jax`, on a batch in
PyTorch's layout: frames `[T, B, 1, C, H, W]`, `psi` and `gamma` `[B, K, 1, H, W]`, `theta [B, K, M]`.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

CLIP = 1e-6  # bound on the arguments of the logarithms
LAYER_NORM_EPSILON = 1e-12
E_SIGMA = 0.25


def image_norm(features: int) -> nn.GroupNorm:
    """Layer norm with moments over channels and pixels, scale and offset per channel."""
    return nn.GroupNorm(1, features, eps=LAYER_NORM_EPSILON)


def encoder(image_size: int, features: tuple[int, ...], dense: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip((1, *features[:-1]), features, strict=True):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), image_norm(after), nn.ELU()]
    side = image_size // 2 ** len(features)
    layers += [nn.Flatten(), nn.Linear(side * side * features[-1], dense), nn.LayerNorm(dense, LAYER_NORM_EPSILON)]
    return nn.Sequential(*layers, nn.ELU())


def decoder(image_size: int, features: tuple[int, ...], dense: int, hidden_size: int, binary: bool) -> nn.Sequential:
    side = image_size // 2 ** len(features)
    flat = side * side * features[-1]
    layers: list[nn.Module] = [nn.Linear(hidden_size, dense), nn.LayerNorm(dense, LAYER_NORM_EPSILON), nn.ReLU()]
    layers += [nn.Linear(dense, flat), nn.LayerNorm(flat, LAYER_NORM_EPSILON), nn.ReLU()]
    layers.append(nn.Unflatten(1, (features[-1], side, side)))
    outputs = (*features[-2::-1], 1)
    for before, after in zip(features[::-1], outputs, strict=True):
        layers += [nn.Upsample(scale_factor=2), nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(before, after, 4)]
        if after != 1:
            layers += [image_norm(after), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.Sigmoid()] if binary else []))


class ConvRNNEM(nn.Module):
    """T EM steps of K components that share one encoder, recurrent layer and decoder; next-step prediction."""

    def __init__(
        self,
        image_size: int,
        features: tuple[int, ...],
        dense: int,
        hidden_size: int,
        num_components: int,
        binary: bool,
    ) -> None:
        super().__init__()
        self.encoder, self.rnn = encoder(image_size, features, dense), nn.Linear(dense + hidden_size, hidden_size)
        self.rnn_norm = nn.LayerNorm(hidden_size, LAYER_NORM_EPSILON)
        self.decoder = decoder(image_size, features, dense, hidden_size, binary)
        self.num_components, self.binary = num_components, binary

    def cell(self, residual: torch.Tensor, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(theta, psi) of components `[N, 1, H, W]`."""
        if not self.binary:
            mean, variance = residual.mean((1, 2, 3), keepdim=True), residual.var((1, 2, 3), keepdim=True, correction=0)
            residual = (residual - mean) / (variance + CLIP).sqrt()
        linear = self.rnn(torch.cat([self.encoder(residual), theta], dim=-1))
        return torch.sigmoid(linear), self.decoder(torch.sigmoid(self.rnn_norm(linear)))

    def initial_gamma(self, x: torch.Tensor) -> torch.Tensor:
        """Random, as in N-EM, for frames as in `forward`."""
        gamma = torch.randn(x.shape[1], self.num_components, 1, *x.shape[4:]).abs()
        return gamma / gamma.sum(1, keepdim=True)

    def forward(self, x_noisy: torch.Tensor, x: torch.Tensor, gamma: torch.Tensor, inter_weight: float) -> torch.Tensor:
        """The training loss of noisy frames and their targets, both `[T, B, 1, 1, H, W]`: all steps, batch mean."""
        batch, num_components = x.shape[1], self.num_components
        psi, theta = torch.zeros_like(gamma), x.new_zeros(batch * num_components, self.rnn.out_features)
        total = x.new_zeros(())
        for noisy, target in zip(x_noisy, x, strict=True):
            theta, flat = self.cell((gamma * (noisy - psi)).flatten(0, 1), theta)
            psi = flat.unflatten(0, (batch, num_components))
            if self.binary:
                likelihood = target * psi + (1 - target) * (1 - psi)
                cost = functional.binary_cross_entropy(
                    psi.clamp(CLIP, 1 - CLIP), target.expand_as(psi), reduction="none"
                )
                prior = -(1 - psi).clamp(min=CLIP).log()
            else:
                likelihood = torch.exp(-0.5 * ((target - psi) / E_SIGMA) ** 2) / (E_SIGMA * (2 * torch.pi) ** 0.5)
                cost, prior = 0.5 * (target - psi) ** 2, 0.5 * psi**2
            likelihood = likelihood.detach() + CLIP
            gamma = likelihood / likelihood.sum(1, keepdim=True)
            total = total + (gamma * cost + inter_weight * (1 - gamma) * prior).sum()
        return total / batch


def make_train_step(
    model: ConvRNNEM, learning_rate: float, inter_weight: float, compiled: bool
) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """One Adam step on `(x_noisy, x)`; `compiled` by torch.compile, forward and backward."""
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    if compiled:
        model.cell = torch.compile(model.cell)  # type: ignore[method-assign] # how PyTorch compiles a part

    def train_step(x_noisy: torch.Tensor, x: torch.Tensor) -> None:
        optimiser.zero_grad()
        model(x_noisy, x, model.initial_gamma(x), inter_weight).backward()
        optimiser.step()

    return train_step
