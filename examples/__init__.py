"""Programs that use Lensmith as its users do."""
