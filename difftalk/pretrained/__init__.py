"""Pretrained weights: the table of them, where they lie, and how they are downloaded."""
