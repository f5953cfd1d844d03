"""What every stage runs on: files, processes, progress, rejects, fingerprints, errors."""
