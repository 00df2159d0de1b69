"""How arrays become bytes: bfloat16 words, streamed Zarr shards, Arrow tables."""
