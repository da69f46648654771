"""Engines that are programs of their own: their words completed, started and watched."""
