"""Data formats for training and evaluation: one format a file, each with its own reader.

Nothing is imported here, so that reading a protocol does not load torch.
"""
