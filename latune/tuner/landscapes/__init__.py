"""Search spaces measured config by config, to judge searches by: how they are recorded, and how a search of one is replayed."""
