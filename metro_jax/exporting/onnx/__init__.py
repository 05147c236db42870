"""Networks as ONNX models, translated from their own programs."""
