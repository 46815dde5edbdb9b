"""What we know of each vision-language family: facts, loading, and the models we make ourselves."""
