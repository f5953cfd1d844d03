"""Training: the denoiser's loop, and what all trainings share, such as checkpoints."""
