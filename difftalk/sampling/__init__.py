"""Sampling: videos of the test clips by each method, trained or not."""
