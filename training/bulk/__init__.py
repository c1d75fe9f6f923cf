"""Embeddings of large sets of pictures, on several processes, resumable: the command ``facemargin embed``."""
