"""Tasks answered in words about texts, images and videos.

- text_generation, vlm, video_analysis: the runners of these tasks
"""
