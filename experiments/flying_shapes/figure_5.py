"""N-EM's figure 5: binary cross entropy of RNN-EM (K = 5) and of the recurrent autoencoder (K = 1), 3 to 5 objects.

    python -m experiments.flying_shapes.figure_5 --directory=runs --output=runs/figure_5

It is the loss of max_k psi after the last step, in nats per image (`losses.loss_upper_bound`). What the paper's
"denoising" predicts is unpublished; our reading: the frame that the step reads, without noise, by models trained so.
"""

from experiments.comparison import Line, compare
from experiments.flying_shapes.config import DENOISING, FIGURE_5, NUM_OBJECTS_AND_K


def lines() -> list[Line]:
    """Each task, number of objects and model; the paper prints no numbers."""
    table = []
    for task, names in {"denoising": DENOISING, "next step": FIGURE_5}.items():
        for name in names:
            num_objects, num_components = NUM_OBJECTS_AND_K[name]
            model = "RNN-AE" if num_components == 1 else f"RNN-EM (K = {num_components})"
            table.append(Line(f"{task}, {num_objects} objects", model, name, {}, score="loss_upper_bound_last"))
    return table


if __name__ == "__main__":
    compare("flying_shapes", "figure_5", lines(), "binary cross entropy [nats per image]")
