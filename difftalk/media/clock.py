"""The rates that everything runs at: 25 frames and 16,000 audio samples a second; the largest shift tried."""

FPS = 25
SAMPLE_RATE = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
# Largest shift of the audio against the frames, either way, that SyncNet's protocol tries.
MAX_SHIFT_FRAMES = 15
