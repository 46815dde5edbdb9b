"""What a person uploads becomes a validated data set: container, rows, images, checks, split, report. No torch, no SQL."""
