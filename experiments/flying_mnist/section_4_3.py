"""N-EM's section 4.3: AMI on two flying digits, on three with K = 3, and on two that stand still, without new training.

python -m experiments.flying_mnist.section_4_3 --directory=runs --mnist_dir=DIRECTORY --output=runs/section_4_3
"""

from experiments.comparison import Line, compare
from experiments.flying_mnist.config import PAPER

SAME = {name: (paper["ami_max"]["mean"], paper["ami_max"]["std"]) for name, paper in PAPER.items()}
THREE_DIGITS = {"data.num_objects": 3, "model.num_components": 3}
STATIC = {"data.generator": "static_mnist", "model.num_steps": 50}


def lines() -> list[Line]:
    """The training's test, more digits, and images that stand still, for each training."""
    return [
        *(Line("2 digits", name, name, {}, paper) for name, paper in SAME.items()),
        Line("3 digits", "direct", "direct", THREE_DIGITS, (0.729, 0.019)),
        Line("3 digits", "staged", "staged", THREE_DIGITS, (0.838, 0.008)),
        Line("2 static digits, step 50", "direct", "direct", STATIC, (0.619, 0.023), score="ami_max_last"),
        Line("2 static digits, step 50", "staged", "staged", STATIC, (0.772, 0.008), score="ami_max_last"),
    ]


if __name__ == "__main__":
    compare("flying_mnist", "section_4_3", lines(), "AMI (max)")
