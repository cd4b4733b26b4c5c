"""Policy and engines spread over many GPUs and machines: Ray places and watches, FSDP2 shards, vLLM samples."""
