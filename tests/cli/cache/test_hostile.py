"""Whatever stands in the files that they are given, the commands end in a result or in one line."""

from __future__ import annotations

import json
import random

from hostile import mutated

from latune.cache.store import cache_path, write_entries
from latune.gpu import find_gpu

A100 = find_gpu("a100")
SEED = 20260131


def test_no_command_crashes_over_a_file(own_cache, run, entry_at, tmp_path):
    sound = write_entries(A100, [entry_at(256), entry_at(1024, "bwd", evidence="static")], tmp_path / "sound")
    document = json.loads(sound.read_text(encoding="utf-8"))
    path = cache_path(own_cache / "cache", A100)
    path.parent.mkdir(parents=True)
    commands = {
        "list": [],
        "verify": ["--no-build", str(path)],
        "diff": [str(sound), str(path)],
        "merge": [str(path), "--into", str(tmp_path / "into")],
    }
    codes = {command: set() for command in commands}
    draw = random.Random(SEED)
    for _ in range(400):
        name = draw.choice(["gpu", "entries", "entries"])
        text = json.dumps({**document, name: mutated(document[name], draw)})
        path.write_text(text, encoding="utf-8")
        for command, arguments in commands.items():
            result = run("cache", command, *arguments, *draw.choice([[], ["--json"]]))
            assert result.exception is None or isinstance(result.exception, SystemExit), (command, text)
            codes[command].add(result.exit_code)
            if result.exit_code:
                assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1
        assert path.read_text(encoding="utf-8") == text
    assert codes == {"list": {0}, "verify": {0, 1}, "diff": {0, 1}, "merge": {0, 1}}
