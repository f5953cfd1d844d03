"""Sampling: the sampler, the pipeline that a trained model is, and the methods that make a clip's frames."""
