"""N-EM's table 1: AMI after training on 3 or 5 objects with K = 3 or 5, on the same data and on others.

python -m experiments.flying_shapes.table_1 --directory=runs --output=runs/table_1
"""

from experiments.comparison import Line, compare
from experiments.flying_shapes.config import NUM_OBJECTS_AND_K, TABLE_1

TRANSFERS = {
    "rnn_em_3_3": (3, 5, 0.972, 0.007),
    "rnn_em_3_5": (3, 3, 0.914, 0.015),
    "rnn_em_5_3": (3, 3, 0.886, 0.010),
    "rnn_em_5_5": (3, 5, 0.981, 0.003),
}
"""Objects, K and the paper's AMI (mean, standard deviation) of the test that differs from the training."""


def lines() -> list[Line]:
    """Two for each training: the same test, and the other."""
    table = []
    for name, (num_objects, num_components, mean, std) in TRANSFERS.items():
        trained = "/".join(map(str, NUM_OBJECTS_AND_K[name]))
        other = {"data.num_objects": num_objects, "model.num_components": num_components}
        table += [
            Line(trained, "AMI", name, {}, TABLE_1[name]),
            Line(f"{trained}, test {num_objects}/{num_components}", "AMI", name, other, (mean, std)),
        ]
    return table


if __name__ == "__main__":
    ylabel = "AMI (max); ours: mean over 20 steps unless said"
    compare("flying_shapes", "table_1", lines(), ylabel, also={"after the last step": "ami_max_last"})
