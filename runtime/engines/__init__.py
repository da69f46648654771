"""What computes: one protocol, its engines, and the registry that makes them."""
