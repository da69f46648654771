"""Chooses workers: prefix index, cost, predicted load, membership, queue."""
