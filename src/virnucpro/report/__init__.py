"""One page per sample and one per run, each a single file that needs no network."""
