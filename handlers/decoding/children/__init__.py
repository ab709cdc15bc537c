"""Decoders that run in child processes, since a file can make them crash, hang or take all memory.

`wire` is the protocol over the pipes, `child` the main program of a child, `processes` the pool in the parent. A call
names a function, which yields (value, block of bytes) pairs; they are sent back one by one, so neither side holds
more than one page. `pdf`, `video`, the modules beside them, and `images` run in the child only: PDFium is never loaded
elsewhere. `memory` says what a child has.

    handler -> processes.ChildPool.call -> wire -> child -> pdf, video, images
            <- pages and pictures, or why there are none <-
"""
