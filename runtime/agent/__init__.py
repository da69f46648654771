"""The agent: one per node, it starts, watches, restarts and stops the processes of the plan."""
