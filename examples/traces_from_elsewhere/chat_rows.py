"""Chat rows with traces, as rows of stage one: the trace in a column, the answer from its RESPONSE.

The rows are those that ms-swift and others train on: JSONL of ``{"messages": [{"role": "user",
"content": "<audio>..."}, {"role": "assistant", "content": "<THINK>...</RESPONSE>"}], "audios":
["clip.wav"]}``, the assistant's text in the form of CoTA (arXiv 2503.02318). What is not of that
form is left out, named and counted.

``python examples/traces_from_elsewhere/chat_rows.py chat.jsonl rows.jsonl``
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COTA = re.compile(r"\s*<THINK>.*</THINK>\s*<RESPONSE>(?P<answer>.*)</RESPONSE>\s*", re.DOTALL)


def row_of(chat: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Turn one chat into a row.

    Raises:
        ValueError: not one question, one recording and one trace of that form.
    """
    messages = [one for one in chat.get("messages", ()) if one.get("role") != "system"]
    if [one.get("role") for one in messages] != ["user", "assistant"]:
        raise ValueError("expected one message of the user and one of the assistant")
    audios = chat.get("audios", ())
    if len(audios) != 1:
        raise ValueError(f"expected one recording in 'audios', got {len(audios)}")
    trace = messages[1]["content"]
    found = COTA.fullmatch(trace)
    if found is None:
        raise ValueError("the assistant's text is not THINK, then RESPONSE")
    return {
        "audio": str((folder / audios[0]).resolve()),
        "question": messages[0]["content"].replace("<audio>", "").strip(),
        "answer": found["answer"].strip(),
        "trace": trace.strip(),
    }


def main(source: Path, target: Path) -> int:
    """Write the rows; the exit status is 1 if there is none."""
    written, left_out = 0, 0
    with target.open("w") as rows:
        for number, line in enumerate(source.read_text().splitlines(), start=1):
            try:
                row = row_of(json.loads(line), source.parent)
            except ValueError as error:
                left_out += 1
                print(f"{source}:{number}: left out: {error}", file=sys.stderr)
                continue
            written += 1
            rows.write(json.dumps(row) + "\n")
    print(f"{target}: {written} rows; {left_out} left out")
    return int(written == 0)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
