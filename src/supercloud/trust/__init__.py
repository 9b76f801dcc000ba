"""Who is who, and what only they can open: certificates, join proofs, sealed keys, announcements."""
