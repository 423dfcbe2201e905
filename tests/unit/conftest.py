"""Property tests state what must hold, not how fast: on a busy machine any example can pause for longer than a limit."""

from hypothesis import HealthCheck, settings

settings.register_profile("virnucpro", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("virnucpro")
