"""Which models there are, what they are called, and the files that hold them. Nothing here knows an encoder's code."""
