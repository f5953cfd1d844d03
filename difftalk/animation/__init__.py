"""Animation: one video or picture, one sound, one model, and a video in which the face says the sound."""
