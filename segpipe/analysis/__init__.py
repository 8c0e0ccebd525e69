"""What a sweep's runs say, and how surely."""
