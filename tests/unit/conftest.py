"""Property tests: seconds for an example, as a busy machine can pause one of 10 ms for longer than hypothesis's 200 ms."""

from hypothesis import settings

settings.register_profile("virnucpro", deadline=5000)
settings.load_profile("virnucpro")
