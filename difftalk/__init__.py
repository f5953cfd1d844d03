"""Reproducible audio-driven talking heads: DiffTalk from videos to trained models and tables."""

__version__ = "0.1.0"
