"""For all tests: how long an example takes says nothing about what is tested."""

from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
