"""An owner of weights in a process of its own: whoever computes with them maps them, and may end and come back."""
