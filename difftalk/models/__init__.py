"""The networks: first stage, conditioning, denoiser, and the pipeline that ties them together."""
