"""The formal model's traces, replayed against the core. See ``model/README.md``."""
