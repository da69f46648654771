"""Campaigns: from one file with axes to a list of proved points. Pure, as the rest of the compiler."""
