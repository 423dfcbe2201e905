"""Property tests state what must hold, not how fast: on a busy machine any example can pause for longer than a limit."""

from hypothesis import settings

settings.register_profile("virnucpro", deadline=None)
settings.load_profile("virnucpro")
