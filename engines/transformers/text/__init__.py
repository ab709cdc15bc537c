"""Runners of tasks whose answers are texts about texts, images and videos.

- text_generation, vlm, video_analysis: the runners of these tasks
"""
