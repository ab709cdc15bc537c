"""video-analysis: takes a video, returns labels, or a text where the model generates one."""

from __future__ import annotations

from typing import Any

from handlers.base import MediaHandler, notes, optional_text, with_metadata
from handlers.decoding.video import read_video
from handlers.errors import InvalidOption
from handlers.options.options import options_of
from handlers.options.spec import over_bound


class VideoAnalysisHandler(MediaHandler):
    """Takes `video`: an encoded video, or a numpy array of frames and its `frame_rate` (Hz, default 25).

    `prompt` is the question to a model that generates text; models that classify take none. The data may hold
    options: which frames to use, and how many labels to return.
    """

    task = "video-analysis"
    media_fields = ("video",)
    data_fields = ("video", "frame_rate", "prompt")
    options = options_of("video-analysis")
    options_in_data = ("num_frames", "every_s", "top_k")

    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return `frames` (uint8 (n, height, width, 3) RGB), `frame_times_s`, `duration_s`, `prompt` if given."""
        self.validate_input(data, ["video"])
        prompt = optional_text(data, "prompt")
        num_frames, every_s = options.get("num_frames"), options.get("every_s")
        if num_frames is not None and every_s is not None:
            raise InvalidOption("num_frames and every_s both say which frames; give one")
        if num_frames is not None and num_frames > self.limits.max_frames:
            raise over_bound("num_frames", num_frames, self.limits.max_frames, "media.max_frames")
        video = read_video(
            data["video"],
            field="data.video",
            limits=self.limits,
            num_frames=num_frames,
            every_s=every_s,
            frame_rate=data.get("frame_rate"),
        )
        return {
            "frames": video.frames,
            "frame_times_s": video.frame_times_s,
            "duration_s": video.duration_s,
            **notes(truncated=video.truncated, track=video.track),
            **prompt,
        }

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return labels [{label, score}] or generated_text, and frame_times (s) of the frames used, and metadata:
        frames_repeated, in words, where a model that classifies takes more frames than there are."""
        answer = "generated_text" if "generated_text" in result else "labels"
        output = {answer: result[answer], "frame_times": result["frame_times_s"]}
        return with_metadata(output, result, "frame_times_s")
