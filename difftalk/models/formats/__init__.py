"""Checkpoints of other code: read safely, converted to our networks and back."""
