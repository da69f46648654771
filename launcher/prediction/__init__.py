"""What an estimator says of a plan before it runs: aiconfigurator, a program of its own environment."""
