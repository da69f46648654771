"""A pipeline on a simulated clock: the router's placement and the engines' scheduler are the real ones, time is not.

What it leaves out: frontends and the network cost nothing, every transfer has the wire for itself, tiers below the
device and restarts are not there, and a step takes exactly what the mocker's arithmetic says.
"""
