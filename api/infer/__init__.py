"""`POST /infer`: an answer about a picture, by an adapter or by a base model."""
