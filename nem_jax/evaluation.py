"""Scores of a trained model on a split, by the papers' protocol: (model, params, key, split) -> metrics.

Per image, AMI and ARI of argmax_k gamma against the true groups, over the pixels with exactly one object; background
and overlaps are ignored. The input is corrupted as in training (the original program's protocol) unless the model's
`corrupt` is replaced. Training calls this for validation; nothing here knows of checkpoints.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from nem_jax import devices, losses, metrics
from nem_jax.compilation import Jit
from nem_jax.data.split import Dataset, Split
from nem_jax.model import NEM, infer_likeliest, objective, target_frames
from nem_jax.rollouts import Rollout, rollout, rollout_losses
from nem_jax.types import Example, Params, PRNGKey

NUM_SHOWN = 8
"""Examples in an overview figure."""


class Evaluation(NamedTuple):
    """Per example (leading axis N): what the tables average."""

    loss: losses.StepLoss
    """The training objective in nats, `[N]`."""
    loss_upper_bound: Float[Array, "*n"]
    """`losses.loss_upper_bound` after the last step, `[N]`."""
    scores: metrics.Scores
    """After each of the model's `scored_steps`: `[N, 1]` for 'last', `[N, T]` for 'all'."""


def evaluate_example(model: NEM, params: Params, key: PRNGKey, example: Example, num_groups: int) -> Evaluation:
    """Loss and scores of one example, whose frames may be more than the model reads."""
    trajectory, _ = infer_likeliest(model, params, key, example.x[: model.num_frames])
    targets, groups = target_frames(model, example.x), target_frames(model, example.groups)
    loss = objective(model, trajectory, example.x)
    upper_bound = losses.loss_upper_bound(targets[-1], trajectory.psi[-1], model.pixel_dist)
    scored = slice({"last": -1, "all": 0}[model.scored_steps], None)  # indices would copy gamma
    score = functools.partial(metrics.segmentation_scores, num_groups=num_groups)
    return Evaluation(loss, upper_bound, jax.vmap(score)(groups[scored], trajectory.gamma[scored]))


@functools.partial(Jit, static_argnames=("model", "sample", "num_groups"))
def evaluate_batch(
    model: NEM, params: Params, key: PRNGKey, sample: Any, source: Any, index: Int[Array, " B"], num_groups: int
) -> Evaluation:
    """`evaluate_example` on examples number `index`."""
    return _over_batch(
        functools.partial(evaluate_example, model, params, num_groups=num_groups), key, sample, source, index
    )


def _over_batch(
    of_example: Callable[[PRNGKey, Example], Any], key: PRNGKey, sample: Any, source: Any, index: Int[Array, " B"]
) -> Any:
    """`of_example` of examples number `index`; example i draws with `fold_in(key, i)`, whatever its batch."""
    return jax.vmap(lambda i: of_example(jax.random.fold_in(key, i), sample(source, i)))(index)


def evaluate(
    model: NEM,
    params: Params,
    key: PRNGKey,
    dataset: Dataset,
    split: str,
    batch_size: int,
    mesh: Mesh | None = None,
) -> Evaluation:
    """Every example of `split`, in its order, as NumPy arrays with leading axis N.

    The devices of `mesh` share each batch; None: all there are.
    """
    mesh = mesh or devices.make_mesh()
    params, key = devices.place((params, key), mesh)

    def of_batch(source: Any, index: np.ndarray) -> Evaluation:
        source, index = devices.place(source, mesh), devices.place(index, mesh, mesh.axis_names)
        return devices.fetch(evaluate_batch(model, params, key, dataset.sample, source, index, dataset.num_groups))

    resident = dataset.splits[split].moved(lambda source: devices.place(source, mesh))
    return over_split(of_batch, resident, -(-batch_size // mesh.size) * mesh.size)


def over_split(of_batch: Callable[[Any, np.ndarray], Any], split: Split, batch_size: int) -> Any:
    """`of_batch(source, index [B])` of all examples, its leading axes B joined to one of N, on the host."""
    padded = np.arange(-(-split.size // batch_size) * batch_size) % split.size  # one shape, one compilation
    parts = [of_batch(split.fetch(index), index) for index in padded.reshape(-1, batch_size)]
    return jax.tree.map(lambda *rows: np.concatenate(rows)[: split.size], *parts)


def summarise(evaluation: Evaluation) -> dict[str, float]:
    """Means over the examples: the losses, and each score after the last step and over all scored steps."""
    means = {name: np.mean(value) for name, value in evaluation.loss._asdict().items()}
    means["loss_upper_bound_last"] = np.mean(evaluation.loss_upper_bound)
    for name, value in evaluation.scores._asdict().items():
        means[f"{name}_last"], means[f"{name}_mean"] = np.mean(value[:, -1]), np.mean(value)
    return {name: float(mean) for name, mean in means.items()}


def mean_std(scores: list[dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and standard deviation (population) of each score, over seeds or gamma draws."""
    columns = {name: [one[name] for one in scores] for name in scores[0]}
    mean = {name: float(np.mean(column)) for name, column in columns.items()}
    return mean, {name: float(np.std(column)) for name, column in columns.items()}


def quartiles(values: np.ndarray) -> dict[str, list[float]]:
    """Mean and quartiles over the examples, of each step: `[N, T]` -> T numbers each (N-EM's figure 6)."""
    lower, upper = np.quantile(values, [0.25, 0.75], axis=0)
    return {"mean": values.mean(axis=0).tolist(), "lower": lower.tolist(), "upper": upper.tolist()}


class Examined(NamedTuple):
    """N examples at each EM step, on the host once `examine` returns: `[N, T, ...]`; the arrays of `plots`' figures."""

    x: Any
    """The steps' targets."""
    x_noisy: Any
    """What they read."""
    groups: Any
    """Of the targets."""
    gamma: Any
    psi: Any

    @property
    def last(self) -> "Examined":
        """After the last step, `[N, ...]`: what `plots.overview` shows."""
        return Examined(*(leaf[:, -1] for leaf in self))


@functools.partial(Jit, static_argnames=("model", "sample"))
def examine_batch(
    model: NEM, params: Params, key: PRNGKey, sample: Any, source: Any, index: Int[Array, " N"]
) -> Examined:
    """What the model sees and makes of examples number `index`, with the draws of `evaluate_batch`."""

    def one(key: PRNGKey, example: Example) -> Examined:
        trajectory, x_noisy = infer_likeliest(model, params, key, example.x[: model.num_frames])
        x, groups = (target_frames(model, frames) for frames in (example.x, example.groups))
        return Examined(x, x_noisy, groups, trajectory.gamma, trajectory.psi)

    return _over_batch(one, key, sample, source, index)


def examine(
    model: NEM, params: Params, key: PRNGKey, dataset: Dataset, split: str, index: np.ndarray | None = None
) -> Examined:
    """Examples number `index` of `split`, or the first `NUM_SHOWN`, at each EM step, with the draws of `evaluate`.

    Of several processes all must call it.
    """
    if index is None:
        index = np.arange(min(NUM_SHOWN, dataset.splits[split].size))
    source = dataset.splits[split].fetch(index)
    return devices.fetch(examine_batch(model, params, key, dataset.sample, source, index))


@functools.partial(Jit, static_argnames=("model", "sample", "num_ahead"))
def rollout_batch(
    model: NEM, params: Params, key: PRNGKey, sample: Any, source: Any, index: Int[Array, " N"], num_ahead: int
) -> tuple[Rollout, Float[Array, "N _"]]:
    """The rollout of examples number `index`, and `rollout_losses` of its T + `num_ahead` steps, in nats."""

    def one(key: PRNGKey, example: Example) -> tuple[Rollout, jax.Array]:
        rolled = rollout(model, params, key, example.x, num_ahead)
        return rolled, jnp.concatenate(rollout_losses(model, rolled, example.x))

    return _over_batch(one, key, sample, source, index)


def describe_protocol(model: NEM, dataset: Dataset, split: str, noise: str, gamma_draws: int) -> dict[str, Any]:
    """How scores were measured, for the record beside them."""
    return {
        "split": split,
        "num_examples": dataset.splits[split].size,
        "num_components": model.num_components,
        "num_steps": model.num_steps,
        "input_noise": noise,
        "scored_pixels": "exactly one object: background and overlaps are ignored",
        "scored_steps": {"last": "the last", "all": "mean over all, and the last"}[model.scored_steps],
        "kept_draws": f"the likeliest of {model.num_draws}",
        "gamma_draws": gamma_draws,
    }
