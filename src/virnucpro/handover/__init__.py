"""Results → what other programs read, and what they found beside the results."""
