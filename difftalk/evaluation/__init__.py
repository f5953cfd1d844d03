"""Measuring samples by one fixed protocol, and the tables made of it."""
