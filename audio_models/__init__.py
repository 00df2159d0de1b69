"""Audio language models of transformers behind one adapter, for teachers and students alike."""
