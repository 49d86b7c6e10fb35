"""Is a history of key-value operations linearizable? ``checker`` decides; the tests feed it."""
