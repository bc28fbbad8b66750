"""Training: state, compiled steps, epoch loop, early stopping, checkpoints, logs."""
