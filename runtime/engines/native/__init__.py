"""The engine of our own: scheduler and blocks without torch, the runner with it."""
