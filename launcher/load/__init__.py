"""Makes the load of a run, and keeps what came of every request."""
