"""How answers are judged: one file a published rule, and the strict rules beside them."""
