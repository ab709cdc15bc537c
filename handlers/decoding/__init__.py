"""Decodes media: images, sounds, videos, documents.

One module for each kind of media, with its helpers beside it; each checks bytes, pixels, seconds and pages before it
decodes. `children` runs the decoders that may crash, hang or take all memory.
"""
