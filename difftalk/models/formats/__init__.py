"""Checkpoints of other code: read safely, converted to ours and back."""
