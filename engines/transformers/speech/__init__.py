"""Speech recognition.

- whisper, whisper_pass, recordings, segments: windows through Whisper; options, guards: what was really said
- ctc: models of the CTC kind, such as wav2vec2
"""
