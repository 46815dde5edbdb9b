"""What Pillow's decoders raise over damaged bytes; found by fuzzing and by reading their sources."""

import struct
import zlib

DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    ZeroDivisionError,
    NotImplementedError,
    struct.error,
    zlib.error,
)
