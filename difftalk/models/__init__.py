"""The networks: first stage, conditioning, denoiser, sync expert; and what they are given."""
