"""Tells in which language a text is written, by the frequency of its trigrams."""
