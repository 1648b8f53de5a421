"""One run: its replicates, the loop, early stopping, checkpoints and evaluation."""
