"""Coverage-guided fuzzing of everything that decodes bytes from outside.

``python -m tests.fuzz NAME --seconds N`` (or ``make fuzz``) runs one target under atheris and
keeps what reached new code in ``corpus/NAME.hex``; ``test_corpus.py`` replays that in every run of
the tests, without atheris.
"""
