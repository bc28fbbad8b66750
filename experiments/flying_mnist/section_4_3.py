"""N-EM's section 4.3: AMI on two flying digits, on three with K = 3, and on two that stand still, without new training.

python -m experiments.flying_mnist.section_4_3 --directory=runs --mnist_dir=DIRECTORY --output=runs/section_4_3
"""

from experiments.comparison import Line, compare
from experiments.flying_mnist.config import PAPER

RECIPES = {f"{recipe}{suffix}": recipe for suffix in ("", "_fast", "_longer") for recipe in ("direct", "staged")}
"""The configurations that are compared, and of which of the paper's trainings each is."""

THREE_DIGITS = {"direct": (0.729, 0.019), "staged": (0.838, 0.008)}
STATIC_DIGITS = {"direct": (0.619, 0.023), "staged": (0.772, 0.008)}
"""The paper's AMI (mean, standard deviation) of the tests that differ from the training, after 50 steps the second."""


def lines() -> list[Line]:
    """The training's test, more digits, and images that stand still, for each training."""
    three = {"data.num_objects": 3, "model.num_components": 3}
    static = {"data.generator": "static_mnist", "model.num_steps": 50}
    table = []
    for name, recipe in RECIPES.items():
        of_paper = PAPER[recipe]["ami_max"]
        two = of_paper["mean"], of_paper["std"]
        table += [
            Line("2 digits", name, name, {}, two, reproduces=recipe),
            Line("3 digits", name, name, three, THREE_DIGITS[recipe], reproduces=recipe),
            Line("2 static digits, step 50", name, name, static, STATIC_DIGITS[recipe], "ami_max_last", recipe),
        ]
    return table


if __name__ == "__main__":
    compare("flying_mnist", "section_4_3", lines(), "AMI (max)", also={"after the last step": "ami_max_last"})
