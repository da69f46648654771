"""What a run measured, in one shape whatever tool measured it."""
