"""What a run is asked for: options, presets, environment variables that stand for options, samples, their tables."""
