"""The resource `/uploads`: a large file in parts, which a broken connection does not undo."""
