"""The rates that everything runs at: 25 frames and 16,000 audio samples a second."""

FPS = 25
SAMPLE_RATE = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
