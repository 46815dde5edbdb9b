"""Pure fine-tuning: a spec goes in, an adapter folder and typed events come out. No row, queue or request."""
