"""What a frozen vision tower makes of images, kept on disk between batches, epochs and jobs."""
