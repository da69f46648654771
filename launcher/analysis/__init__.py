"""What rows come to: frontiers, SLAs, cost, capacity. Pure functions."""
