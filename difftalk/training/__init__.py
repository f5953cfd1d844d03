"""Training of the denoiser, of the first stage and of the sync expert."""
