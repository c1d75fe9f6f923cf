"""Memory that is free goes back to the system from time to time, for glibc's allocator alone would keep it.

It learns: once a picture of up to 32 MiB was freed, pictures of that size come from its own store, of which each thread
has one, and twice that size stays in each store for good. So the memory of a service of many threads grows in steps of
some ten MiB for as long as chance has larger pictures meet. Returning every piece at once (mallopt) would cost half as
much again for decoding a photograph of eight megapixels; a call every few seconds costs next to nothing, and reaches
all of it where threads share one store.
"""

import ctypes

_M_ARENA_MAX = -8  # of glibc's malloc.h


def share_one_store() -> bool:
    """Have threads that are begun from now on allocate from one store; False where the allocator is not glibc's."""
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # TypeError: Windows, where the process has no name for itself
        return False
    return bool(set_option(_M_ARENA_MAX, 1))


def return_freed_memory() -> bool:
    """Give free memory back; False where there was none, or the allocator is not glibc's."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return False
    return bool(trim(ctypes.c_size_t(0)))
