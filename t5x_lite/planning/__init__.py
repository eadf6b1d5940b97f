"""Plans of runs: what the compiler makes of a training step on devices that need not be there."""
