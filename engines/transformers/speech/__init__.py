"""Speech recognition.

- whisper, whisper_pass, recordings, segments: windows through Whisper; options; guards against invented text
- ctc: models of the CTC kind, such as wav2vec2
"""
