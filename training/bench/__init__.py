"""Benchmarks: programs that time parts of the library and print what they found."""
