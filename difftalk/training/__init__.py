"""Training: the denoiser's loop and what it is made of, and what the first stage and the sync expert share with it."""
