"""The names of all fields of a configuration; experiments/recipe.py gives them values and says what they mean."""

from ml_collections import ConfigDict

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
        present = set(config.get(section, ())) if section else set(config) - set(FIELDS)
        for name in sorted(present ^ set(names)):
            what = "has a field that is none" if name in present else "lacks a field"
            field = f"{section}.{name}" if section else name
            raise ValueError(f"the configuration {what}, {field}: it was written by another version")
