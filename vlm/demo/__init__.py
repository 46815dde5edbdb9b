"""The offline base `lensmith-demo`: a real text decoder, and a small vision tower that we pretrained."""
