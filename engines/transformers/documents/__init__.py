"""Reads text in images and pages.

- document_analysis, document_answers, page_text: pages, their words, and answers to questions about them
- ocr, ocr_pages: the runners of task ocr; text_detection, text_recognition: PP-OCR's two models
- text_lines, reading_order: geometry of words and lines
"""
