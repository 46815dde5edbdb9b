"""Ground floor: knows nothing of fine-tuning, rows or HTTP resources."""

VERSION = "0.1.0"
