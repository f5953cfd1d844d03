"""Video, audio and shards: probe, decode by timestamp, encode, read and write."""
