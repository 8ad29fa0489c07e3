"""No test is judged by how long it took: a busy computer would decide."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
