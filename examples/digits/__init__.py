"""`make demo`: handwritten digits, from upload to answers."""
