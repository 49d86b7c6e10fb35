"""What decoding raises."""


class WireError(ValueError):
    """The bytes are no message of this protocol; the text says what was expected."""
