"""A complete N-EM model of one example: corruption, initial state and unrolled EM steps, with one cell.

This is where the pure pieces meet. `infer` is the whole forward pass of one example, `example_loss` what training
minimises; both take the model's constants as a frozen record and its weights as an argument.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from nem_jax import em, losses
from nem_jax.distributions import PixelDist
from nem_jax.types import Cell, EMState, Params, PRNGKey, Trajectory, check_counts
from nem_jax.unrolling import REMAT, unroll


@dataclass(frozen=True)
class NEM:
    """Everything about a model but its weights. `dataclasses.replace` gives it another K or T; under `jax.jit` it
    is a static argument.

    Attributes:
        init: `key -> params`.
        cell: the network of one component, see `nem_jax.types.Cell`.
        hidden_size: M.
        pixel_dist: distribution of a pixel given psi.
        corrupt: `(key, x [..., H, W, C]) -> x_noisy`; one call draws the noise of all T frames, each its own.
        num_components: K.
        num_steps: T.
        gradient_gamma: whether gradients flow through gamma: the papers' static images True, sequences False.
        step_weights: which steps carry a loss, see `losses.step_weights`: static images 'last', sequences 'all'.
        scored_steps: after which steps the grouping is scored, likewise.
        lookahead: which frame step t predicts and is scored on, counted from the one that it reads: 1 the next, 0 the
            same (denoising); static images are the same either way.
        epsilon: added to the linear likelihood in the E-step.
        inter_weight: weight of the inter-cluster loss.
        num_draws: initial gammas that `infer_likeliest` tries; training draws one.
        scan_unroll: EM steps per loop body; None lays out all of them, which is fastest on CPU.
        remat: what the backward pass computes again, one of `nem_jax.unrolling.REMAT`; without effect unless
            `scan_unroll` is below T.

    Raises:
        ValueError: a count is below 1, lookahead or inter_weight below 0, epsilon none that `em.e_step` takes, or
            step_weights, scored_steps or remat not one of their names.
    """

    init: Callable[[PRNGKey], Params]
    cell: Cell
    hidden_size: int
    pixel_dist: PixelDist
    corrupt: Callable[[PRNGKey, jax.Array], jax.Array]
    num_components: int
    num_steps: int
    gradient_gamma: bool
    step_weights: str
    scored_steps: str
    lookahead: int = 1
    epsilon: float = em.E_STEP_EPSILON
    inter_weight: float = 1.0
    num_draws: int = 1
    scan_unroll: int | None = None
    remat: str = "none"

    def __post_init__(self) -> None:
        counts = ("hidden_size", "num_components", "num_steps", "num_draws")
        check_counts(**{name: getattr(self, name) for name in counts})
        check_counts(0, lookahead=self.lookahead)
        if self.scan_unroll is not None:
            check_counts(scan_unroll=self.scan_unroll)
        em.check_epsilon(self.epsilon)
        if not self.inter_weight >= 0:
            raise ValueError(f"inter_weight must be at least 0, got {self.inter_weight}")
        allowed = {"step_weights": losses.WHICH_STEPS, "scored_steps": losses.WHICH_STEPS, "remat": REMAT}
        for name, names in allowed.items():
            if getattr(self, name) not in names:
                raise ValueError(f"{name} must be one of {', '.join(names)}, got {getattr(self, name)!r}")

    @property
    def num_frames(self) -> int:
        """Frames that T steps read and are scored on."""
        return self.num_steps + self.lookahead


def to_frames(x: Num[Array, "F H W C"], num_frames: int) -> Num[Array, "{num_frames} H W C"]:
    """The first `num_frames` frames; a static image (F = 1) is the sequence of equal frames."""
    if x.shape[0] == 1:
        return jnp.broadcast_to(x, (num_frames, *x.shape[1:]))
    chex.assert_axis_dimension_gteq(x, 0, num_frames)
    return x[:num_frames]


def target_frames(model: NEM, frames: Num[Array, "F H W C"]) -> Num[Array, "T H W C"]:
    """The frames (of x or groups) that the T steps are scored on."""
    return to_frames(frames, model.num_frames)[model.lookahead :]


def draw_inputs(model: NEM, key: PRNGKey, x: Float[Array, "F H W C"]) -> tuple[Float[Array, "T H W C"], EMState]:
    """All that is random in `infer`: the noisy frames that the T steps read, and the state before the first."""
    if x.ndim != 4 or len(x) not in (1, model.num_frames):
        raise ValueError(
            f"x must be one example [F, H, W, C] of {model.num_frames} frames (T + lookahead) or 1 (a static image), "
            f"got {x.shape}; a batch needs jax.vmap"
        )
    noise_key, state_key = jax.random.split(key)
    x_noisy = model.corrupt(noise_key, to_frames(x, model.num_steps))
    state = em.init_state(
        state_key, num_components=model.num_components, hidden_size=model.hidden_size, image_shape=x.shape[1:]
    )
    return x_noisy, state


def infer(model: NEM, params: Params, key: PRNGKey, x: Float[Array, "F H W C"]) -> tuple[Trajectory, jax.Array]:
    """T EM steps on one example: step t reads frame t, corrupted anew, and is scored on clean frame t + lookahead.

    Args:
        model: the model's constants.
        params: its weights.
        key: consumed; draws the input noise and the initial gamma.
        x: clean frames, T + lookahead of them or one (a static image).

    Returns:
        The states after each step, and the inputs x_noisy `[T, H, W, C]` that led there.

    Raises:
        ValueError: x has another number of frames, as a batch of images has, unless it is of just as many.
    """
    x_noisy, state = draw_inputs(model, key, x)
    step = functools.partial(
        em.em_step,
        model.cell,
        params,
        pixel_dist=model.pixel_dist,
        gradient_gamma=model.gradient_gamma,
        epsilon=model.epsilon,
    )
    scan_unroll = model.scan_unroll or model.num_steps
    targets = target_frames(model, x)
    return unroll(step, state, x_noisy, targets, scan_unroll=scan_unroll, remat=model.remat), x_noisy


def infer_likeliest(
    model: NEM, params: Params, key: PRNGKey, x: Float[Array, "F H W C"]
) -> tuple[Trajectory, jax.Array]:
    """`infer` from `model.num_draws` initial gammas, each with its own noise; the one that explains x best is kept.

    Beyond the paper. The lowest `losses.loss_upper_bound` after the last step wins, which knows neither gamma nor true
    groups, but the target: a prediction kept so is no forecast. One draw is `infer` itself, whose arguments, results
    and errors it has.
    """
    if model.num_draws == 1:
        return infer(model, params, key, x)
    found = jax.vmap(lambda key: infer(model, params, key, x))(jax.random.split(key, model.num_draws))
    target = target_frames(model, x)[-1]
    cost = jax.vmap(lambda psi: losses.loss_upper_bound(target, psi, model.pixel_dist))(found[0].psi[:, -1])
    return jax.tree.map(lambda leaf: leaf[jnp.nanargmin(cost)], found)


def objective(model: NEM, trajectory: Trajectory, x: Float[Array, "F H W C"]) -> losses.StepLoss:
    """The training objective of a trajectory (N-EM equation 5, summed over the weighted EM steps)."""
    targets = target_frames(model, x)
    weights = losses.step_weights(model.step_weights, model.num_steps)
    return losses.trajectory_loss(targets, trajectory, model.pixel_dist, weights, model.inter_weight)


def example_loss(model: NEM, params: Params, key: PRNGKey, x: Float[Array, "F H W C"]) -> losses.StepLoss:
    """`objective` of `infer` on one example, whose arguments and errors it has: what training minimises."""
    trajectory, _ = infer(model, params, key, x)
    return objective(model, trajectory, x)
