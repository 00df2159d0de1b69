"""What the textual teacher is asked, in words: versioned files, and how they are read."""

from pipeline.prompts.load import Prompt, load_prompt, shipped_prompts

__all__ = ["Prompt", "load_prompt", "shipped_prompts"]
