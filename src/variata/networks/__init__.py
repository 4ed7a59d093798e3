"""Encoders, each beside the decoder that mirrors it."""
