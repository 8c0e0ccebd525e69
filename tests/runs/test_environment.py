"""The version of the code in a record."""

import subprocess

from segpipe.runs.environment import git_state


def git(folder, *words):
    who = ["-c", "user.name=n", "-c", "user.email=e@example.com"]
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


def test_uncommitted_changes_are_part_of_the_version(tmp_path):
    assert git_state(tmp_path) is None
    (tmp_path / "segpipe").mkdir()
    (tmp_path / "segpipe" / "a.py").write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "x")
    clean = git_state(tmp_path)
    assert len(clean) == 40
    states = [clean]
    for name, text in (("segpipe/a.py", "2"), ("segpipe/a.py", "3"), ("segpipe/new.py", "1"), ("segpipe/new.py", "2")):
        (tmp_path / name).write_text(text)
        states.append(git_state(tmp_path))
    assert len(set(states)) == 5
    assert all(state.startswith(f"{clean}+changes-") for state in states[1:])
    (tmp_path / "notes.txt").write_text("not code")
    assert git_state(tmp_path) == states[-1]
    git(tmp_path, "checkout", "-q", "segpipe/a.py")
    (tmp_path / "segpipe" / "new.py").unlink()
    assert git_state(tmp_path) == clean
