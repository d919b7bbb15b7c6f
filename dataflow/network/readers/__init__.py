"""Readers of what users have: ONNX models, SCALE-Sim topology tables, masks."""
