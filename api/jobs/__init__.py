"""Jobs: `POST /jobs` and what becomes of them."""
