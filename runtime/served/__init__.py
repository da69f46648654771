"""Engines that are programs of their own, as workers of the plane: their servers asked, their events translated."""
