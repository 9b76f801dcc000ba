"""Recipes, locks and builders of the blanket image, the agent's bundle and the demo's guest."""
