"""Faces: where they are (`landmarks`, `tracks`), what is cut out (`crops`), what is generated (`masks`)."""
