"""Recipes of other systems -> specs of ours: text in; spec, cluster and what could not be mapped out."""
