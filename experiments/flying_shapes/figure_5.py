"""N-EM's figure 5: binary cross entropy of RNN-EM (K = 5) and of the recurrent autoencoder (K = 1), 3 to 5 objects.

    python -m experiments.flying_shapes.figure_5 --directory=runs

It is the loss of max_k psi after the last step, in nats per image (`losses.loss_upper_bound`). What the paper's
"denoising" predicts is unpublished; our reading: the frame that the step reads, without noise, by models trained so.
"""

from experiments.comparison import Line, compare

SCORE = "upper_bound"
TASKS = {"denoising": "_denoising", "next step": ""}


def lines() -> list[Line]:
    """Each task, number of objects and model; the paper prints no numbers."""
    table = []
    for task, suffix in TASKS.items():
        for num_objects in (3, 4, 5):
            group = f"{task}, {num_objects} objects"
            table.append(Line(group, "RNN-EM (K = 5)", f"rnn_em_{num_objects}_5{suffix}", {}, score=SCORE))
            table.append(Line(group, "RNN-AE", f"rnn_ae_{num_objects}{suffix}", {}, score=SCORE))
    return table


if __name__ == "__main__":
    compare("flying_shapes", "figure_5", lines(), "binary cross entropy [nats per image]")
