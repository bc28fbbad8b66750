"""The names of all fields of a configuration; experiments/recipe.py gives them values and says what they mean."""

from ml_collections import ConfigDict

from nem_jax.config.checks import value

FIELDS = {
    "": ("experiment", "name", "seed", "num_seeds", "stages"),
    "data": (
        "path", "generator", "seed", "digits", "mnist_dir", "digit_pool", "image_size", "num_objects",
        "num_training", "num_validation", "num_test",
    ),
    "model": (
        "cell", "step_size_init", "hidden_size", "features", "dense_size", "normalise_input", "num_components",
        "num_steps", "lookahead", "pixel_dist", "e_sigma", "epsilon", "noise", "noise_prob", "gradient_gamma",
        "step_weights", "scored_steps", "inter_weight", "num_draws", "precision",
    ),
    "training": (
        "init_from", "learning_rate", "warmup_epochs", "decay", "clip_norm", "batch_size", "num_microbatches",
        "max_epochs", "patience", "log_interval", "scan_unroll", "seed_mapping", "seed_devices", "remat",
        "figure_interval",
    ),
}  # fmt: skip


def check_fields(config: ConfigDict) -> None:
    """`config` has these fields and no others, whose meaning would be lost.

    Raises:
        ValueError: it lacks one, or has another; the sentence names it.
    """
    for section, names in FIELDS.items():
        dotted = [f"{section}.{name}".removeprefix(".") for name in names]
        for field in dotted:
            value(config, field)
        present = set(config) - set(FIELDS) if section == "" else set(config[section])
        unknown = sorted(present - set(names))
        if unknown:
            where = section or "the configuration"
            raise ValueError(f"{where} has no field {unknown[0]!r}: it must be one of {', '.join(names)}")
