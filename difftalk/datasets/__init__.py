"""Datasets: which clips there are, how they are split, and where their sources come from."""
