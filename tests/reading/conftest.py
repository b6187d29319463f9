"""Settings of the tests of bounds."""

from one_thread import one_thread as one_thread
