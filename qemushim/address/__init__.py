"""The buses: who sits where, and what is free.  An address that the user wrote is law and is never moved.

Every allocator has the verbs ``reserve(address)``, ``next(want)``, ``release(address)`` and ``free()``.  It
raises ``AddressError`` with the map of its bus in the hint, and is left as it was where it does.
"""
