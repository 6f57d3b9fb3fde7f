"""The error family. Every message says what was needed, what came, and what to do."""


class MemorizationError(Exception):
    """Base of every error that this package raises on purpose."""


class DataError(MemorizationError, ValueError):
    """Images, subjects or batches that cannot be scored: empty, NaN, constant, wrong shape, shared subjects."""


class EncoderError(MemorizationError, ValueError):
    """An encoder that is unknown, has no or wrong weights, or returns other shapes than it declared."""


class CalibrationError(MemorizationError, ValueError):
    """A null distribution that is empty, not finite, or undefined for these data."""


class SamplerError(MemorizationError, TypeError):
    """No way to draw images from the module was found, or what it drew is not usable."""


class StateError(MemorizationError, RuntimeError):
    """A call out of order, or stored state that belongs to other data or another encoder."""
