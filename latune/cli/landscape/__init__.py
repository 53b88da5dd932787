"""``latune landscape``: whole search spaces, recorded and searched again."""
