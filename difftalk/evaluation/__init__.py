"""Evaluation: the fixed protocol that all samples are measured by."""
