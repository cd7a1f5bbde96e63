"""What users are told: the routing table, and settings that do not do what they seem to."""
