"""The BERT family, built on t5x_lite and needing no change to it."""
