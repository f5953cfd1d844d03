"""Pretrained weights: the table of them, their download, and their import into the weights folder."""
